// The change of all parameters in one sweep: scale and regularise the gradient, apply the rule, subtract.
//
// Layout: parameters, gradients and history are flat arrays of the same layout. The sweep is cut into chunks of
// neighbouring elements with equal multipliers (`UpdateChunk`, made on the host); one block takes one chunk.
// What changes from one iteration to the next is read from device memory (`UpdateScalars`), so that a captured graph
// stays valid. Formulas: solver/rules.py; the update itself is left in the gradients, as Caffe leaves it there.
// Bound: memory; 16 bytes an element for parameter and gradient, 8 for each history array.
#include "elementwise.cuh"

struct UpdateChunk {
  int64 start;
  int count;
  float rate_multiplier, decay;
  int unused;
};
struct UpdateScalars {
  float rate;            // the policy's learning rate
  float gradient_scale;  // from clipping, iter_size and loss scaling
  float correction;      // Adam's, of the bias of its averages
  float norm;            // of the gradients without loss scaling, for the log
  int overflowed;        // whether gradients of a scaled loss are not finite: nothing is updated then
};
struct LossScale {
  float value;  // how many times too large the gradients of a pass are
  float held;   // updates in a row that did not overflow
};
struct RuleConstants {
  float momentum, momentum2, delta;
};
constexpr double LARGEST = 3.402823466e38;  // a norm above it, or not a number, has overflowed

// A rule turns g into the update and moves the history h0, h1 on; rate includes the multiplier.
struct Sgd {
  static constexpr int history = 1;
  STATIC_DEVICE float update(float g, float& h, float&, float rate, float, const RuleConstants& c) {
    return h = c.momentum * h + rate * g;
  }
};
struct Nesterov {
  static constexpr int history = 1;
  STATIC_DEVICE float update(float g, float& h, float&, float rate, float, const RuleConstants& c) {
    const float old = c.momentum * h;
    h = old + rate * g;
    return (1 + c.momentum) * h - old;
  }
};
struct AdaGrad {
  static constexpr int history = 1;
  STATIC_DEVICE float update(float g, float& h, float&, float rate, float, const RuleConstants& c) {
    h += g * g;
    return rate * (g / (sqrtf(h) + c.delta));
  }
};
struct RmsProp {  // momentum2 is rms_decay
  static constexpr int history = 1;
  STATIC_DEVICE float update(float g, float& h, float&, float rate, float, const RuleConstants& c) {
    h = c.momentum2 * h + (1 - c.momentum2) * g * g;
    return rate * (g / (sqrtf(h) + c.delta));
  }
};
struct AdaDelta {
  static constexpr int history = 2;
  STATIC_DEVICE float update(float g, float& h, float& s, float rate, float, const RuleConstants& c) {
    h = c.momentum * h + (1 - c.momentum) * g * g;
    const float v = g * sqrtf((s + c.delta) / (h + c.delta));
    s = c.momentum * s + (1 - c.momentum) * v * v;
    return rate * v;
  }
};
struct Adam {
  static constexpr int history = 2;
  STATIC_DEVICE float update(float g, float& m, float& v, float rate, float correction, const RuleConstants& c) {
    m = c.momentum * m + (1 - c.momentum) * g;
    v = c.momentum2 * v + (1 - c.momentum2) * g * g;
    return rate * correction * (m / (sqrtf(v) + c.delta));
  }
};

// COUNT > 1 needs every chunk to start at a multiple of COUNT.
template <class Rule, bool L1, int COUNT>
__global__ void __launch_bounds__(256)
update(const UpdateChunk* chunks, const UpdateScalars* scalars, float* data, float* gradient, float* history_0,
       float* history_1, float momentum, float momentum2, float delta) {
  if (scalars->overflowed) return;
  const UpdateChunk chunk = chunks[blockIdx.x];
  const float rate = scalars->rate * chunk.rate_multiplier, scale = scalars->gradient_scale;
  const float correction = scalars->correction;
  const RuleConstants constants = {momentum, momentum2, delta};

  auto sweep = [&](int64 i, auto pack) {
    constexpr int count = decltype(pack)::count;
    auto w = load_packed<count>(data + i), g = load_packed<count>(gradient + i);
    auto h0 = load_packed<count>(history_0 + i);
    Packed<float, count> h1 = {};
    if constexpr (Rule::history > 1) h1 = load_packed<count>(history_1 + i);
#pragma unroll
    for (int j = 0; j < count; ++j) {
      const float sign = (w.v[j] > 0) - (w.v[j] < 0);
      const float regularised = g.v[j] * scale + chunk.decay * (L1 ? sign : w.v[j]);
      g.v[j] = Rule::update(regularised, h0.v[j], h1.v[j], rate, correction, constants);
      w.v[j] -= g.v[j];
    }
    store_packed(data + i, w);
    store_packed(gradient + i, g);
    store_packed(history_0 + i, h0);
    if constexpr (Rule::history > 1) store_packed(history_1 + i, h1);
  };
  const int whole = chunk.count / COUNT * COUNT;
  for (int i = threadIdx.x * COUNT; i < whole; i += blockDim.x * COUNT) sweep(chunk.start + i, PackOf<COUNT>{});
  for (int i = whole + threadIdx.x; i < chunk.count; i += blockDim.x) sweep(chunk.start + i, PackOf<1>{});
}

// The sum of squares of n floats: each block of 256 threads leaves its share in `sums`. 4 bytes an element.
template <int COUNT>
__global__ void __launch_bounds__(256) square_sums(int64 n, const float* __restrict__ x, double* __restrict__ sums) {
  float mine = 0;
  for_each_pack<COUNT>(n, [&](int64 i, auto pack) {
    const auto values = load_packed<decltype(pack)::count>(x + i);
#pragma unroll
    for (const float value : values.v) mine += value * value;
  });
  const double sum = block_sum<256>(static_cast<double>(mine));
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// One block: turns the shares into the norm of the gradients and the scale that clips it. A norm that is not above
// `most`, or a negative `most`, clips nothing. Where there is a loss scale, the gradients are so many times too large,
// and a norm that is not finite is an overflow; the scale of the next pass is halved then, and doubled when it has held
// `patience` times, within `lowest` and `highest`.
template <int = 0>
__global__ void __launch_bounds__(256)
clip_gradients(int count, const double* __restrict__ sums, float most, float scale,
               LossScale* loss_scale, float lowest, float highest, float patience, UpdateScalars* scalars) {
  double mine = 0;
  for (int i = threadIdx.x; i < count; i += 256) mine += sums[i];
  const double scaled_norm = sqrt(block_sum<256>(mine));
  if (threadIdx.x != 0) return;
  const float times = loss_scale ? loss_scale->value : 1.0f;
  const double norm = scaled_norm / times;
  const bool clips = most >= 0 && norm > most;
  scalars->norm = static_cast<float>(norm);
  scalars->gradient_scale = scale / times * (clips ? static_cast<float>(most / norm) : 1.0f);
  const bool overflowed = loss_scale && !(scaled_norm <= LARGEST);
  scalars->overflowed = overflowed;
  if (!loss_scale) return;
  const float held = overflowed ? 0 : loss_scale->held + 1;
  const bool grows = held >= patience;
  loss_scale->value = overflowed ? fmaxf(lowest, times / 2) : grows ? fminf(highest, times * 2) : times;
  loss_scale->held = grows ? 0 : held;
}
