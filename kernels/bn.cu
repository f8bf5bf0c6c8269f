// Batch normalisation, with the factor, the bias, the sum with another array and the ReLU that follow it.
//
// y = relu(factor (x - mean) / sqrt(variance + eps) + bias + residual) for each channel; relu(v) = v > 0 ? v : slope v,
// so that slope = 1 stands for no ReLU. Forward is a reduction to each channel's moments, a small kernel that makes them the
// channel's numbers (`Channel`), and one sweep; backward likewise, with dx = scale (dy + along (x - mean) + shift)
// for a dy behind the ReLU, whose side is worked out again from x, or with a residual read from y.
//
// Layout: x, y, dy, dx are (N, C, cells), row-major; y may be x, dx may be dy. Partial sums: (C, parts, numbers).
// Mapping: the reductions give each block of 256 threads one part of one channel, or (NARROW, for few cells) of 32
// channels, one to a lane; the sweeps go over the whole array by for_each_pack.
// Bound: memory; forward 4 bytes an element for the reduction and 8 for the sweep, backward 8 and 12; with a residual
// forward 4 and 12, backward 12 and 20.
#include "bn.cuh"
#include "division.cuh"
#include "elementwise.cuh"

// The sums of part blockIdx.y of channel blockIdx.x, or (NARROW) of channels 32 blockIdx.x and on. COUNT > 1 needs
// `cells` to be a multiple of it. Where Sums is Gradients, x may be null, and y is null unless there is a residual.
template <class Sums, int COUNT, bool NARROW>
__global__ void __launch_bounds__(THREADS)
bn_reduce(int images, int channels, int cells, const float* x, const float* y, const float* dy, const Channel* all,
          float slope, float* __restrict__ partial) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = blockIdx.y, parts = gridDim.y;
  const int channel = NARROW ? min(int(blockIdx.x) * 32 + lane, channels - 1) : blockIdx.x;
  Channel c = {};
  if constexpr (Sums::READS_DY) c = load_four(all, channel);
  Sums sums;
  auto take = [&](int64 at) {
    if constexpr (Sums::READS_DY) {
      const auto pack = load_gradients<COUNT>(at, x, y, dy);
#pragma unroll
      for (int j = 0; j < COUNT; ++j) sums.take(pack.distance(j, c), pack.gradient(j, c, slope));
    } else {
      const auto values = load_packed<COUNT>(x + at);
#pragma unroll
      for (const float value : values.v) sums.take(value, 0);
    }
  };
  if constexpr (NARROW) {
    const int share = divide_up(images, parts), end = min((part + 1) * share, images);
    for (int image = part * share + warp; image < end; image += WARPS)
#pragma unroll 1
      for (int cell = 0; cell < cells; ++cell) take((int64(image) * channels + channel) * cells + cell);
  } else {
    const int packs = cells / COUNT, step_images = THREADS / packs, step = THREADS % packs;
    const int total = images * packs, share = divide_up(total, parts);
    const int begin = min(part * share, total), end = min(begin + share, total);
    int image = (begin + int(threadIdx.x)) / packs, pack = (begin + int(threadIdx.x)) % packs;
#pragma unroll 4
    for (int i = begin + threadIdx.x; i < end; i += THREADS) {
      take((int64(image) * channels + channel) * cells + pack * COUNT);
      image += step_images;
      pack += step;
      if (pack >= packs) pack -= packs, ++image;
    }
  }
  sums.close();

  constexpr int SETS = NARROW ? 32 : 1;  // NARROW: a channel to each lane, which the warps share; else all to warp 0
  __shared__ float kept[WARPS][SETS][Sums::NUMBERS];
  if constexpr (!NARROW) {
#pragma unroll
    for (int bits = 16; bits > 0; bits >>= 1) sums.merge_lane(bits);
  }
  if (NARROW || lane == 0) sums.store(kept[warp][NARROW ? lane : 0]);
  __syncthreads();
  if (warp != 0 || (!NARROW && lane != 0)) return;
  for (int other = 1; other < WARPS; ++other) sums.merge_stored(kept[other][NARROW ? lane : 0]);
  if (NARROW && int(blockIdx.x) * 32 + lane >= channels) return;
  sums.store(partial + (int64(channel) * parts + part) * Sums::NUMBERS);
}

// The sums of a channel, from all its parts: by one warp, lane 0 gets them.
template <class Sums>
DEVICE Sums whole_channel(const float* partial, int channel, int parts) {
  Sums sums;
#pragma unroll 4
  for (int part = threadIdx.x % 32; part < parts; part += 32)
    sums.merge_stored(partial + (int64(channel) * parts + part) * Sums::NUMBERS);
#pragma unroll
  for (int bits = 16; bits > 0; bits >>= 1) sums.merge_lane(bits);
  return sums;
}

// The running mean and variance of a channel, divided by their weight where there is one (0 counts as no statistics).
struct Statistics {
  float mean, variance;
  DEVICE Statistics(const float* means, const float* variances, const float* weights, int channel) {
    const float weight = weights ? *weights : 1.0f, share = weight == 0 ? 0.0f : 1.0f / weight;
    mean = means[channel] * share;
    variance = variances[channel] * share;
  }
  DEVICE Statistics(const Moments& of) : mean(of.mean), variance(of.squares / of.count) {}
  // Factor and bias may be null.
  DEVICE Channel with(float eps, const float* factor, const float* bias, int channel) const {
    const float inverse = 1.0f / sqrtf(variance + eps);
    return {mean, inverse, factor ? factor[channel] * inverse : inverse, bias ? bias[channel] : 0.0f};
  }
};

// A warp for each channel: its numbers from the batch's moments, or where `partial` is null from the running ones. The
// running ones become `keep` times themselves plus `add` times the batch's, the variance `unbias` times that, and the
// weight `keep` times itself plus 1. Everything from `running_mean` to `bias` may be null, the running mean and variance
// together.
template <int = 0>
__global__ void __launch_bounds__(THREADS)
bn_finish(int channels, int parts, const float* __restrict__ partial, float eps, float keep, float add, float unbias,
          float* running_mean, float* running_variance, float* running_weight, const float* factor, const float* bias,
          Channel* __restrict__ all) {
  const int channel = blockIdx.x * WARPS + threadIdx.x / 32;
  if (channel >= channels) return;
  const Statistics of = partial ? Statistics(whole_channel<Moments>(partial, channel, parts))
                                : Statistics(running_mean, running_variance, running_weight, channel);
  if (threadIdx.x % 32 != 0) return;
  if (partial && running_mean) {
    running_mean[channel] = keep * running_mean[channel] + add * of.mean;
    running_variance[channel] = keep * running_variance[channel] + add * (unbias * of.variance);
    if (running_weight && channel == 0) *running_weight = keep * *running_weight + 1;
  }
  all[channel] = of.with(eps, factor, bias, channel);
}

// What a convolution makes of its sums in place of a normalisation by the running statistics: normalised(sum + shift) =
// line_factor sum + line_bias, for the convolution's own bias `shift`. A thread takes a channel. What may be null may be
// it as in bn_finish, and `shift`.
template <int = 0>
__global__ void __launch_bounds__(THREADS)
bn_fold(int channels, float eps, const float* running_mean, const float* running_variance, const float* running_weight,
        const float* factor, const float* bias, const float* shift, float* __restrict__ line_factor,
        float* __restrict__ line_bias) {
  const int channel = blockIdx.x * THREADS + threadIdx.x;
  if (channel >= channels) return;
  const Statistics of(running_mean, running_variance, running_weight, channel);
  const Channel c = of.with(eps, factor, bias, channel);
  line_factor[channel] = c.scale;
  line_bias[channel] = normalised(shift ? shift[channel] : 0.0f, c);
}

// A warp for each channel: adds to the gradients of factor and bias (either may be null), and makes the slopes of dx.
// `share` is 1 / (N cells), or 0 where mean and variance are constants. `partial` may be null where nothing needs it.
template <int = 0>
__global__ void __launch_bounds__(THREADS)
bn_finish_backward(int channels, int parts, const float* __restrict__ partial, float share,
                   const Channel* __restrict__ all, float* factor_gradient, float* bias_gradient,
                   Slopes* __restrict__ slopes) {
  const int channel = blockIdx.x * WARPS + threadIdx.x / 32;
  if (channel >= channels) return;
  Gradients sums;
  if (partial) sums = whole_channel<Gradients>(partial, channel, parts);
  if (threadIdx.x % 32 != 0) return;
  const Channel c = load_four(all, channel);
  const float along = sums.along * c.inverse;
  if (factor_gradient) factor_gradient[channel] += along;
  if (bias_gradient) bias_gradient[channel] += sums.total;
  slopes[channel] = {c.scale, -c.inverse * along * share, -sums.total * share, 0.0f};
}

// Calls body(j, channel) for the elements i to i + COUNT - 1; `enter(channel)` before the first of each channel.
template <int COUNT, class Enter, class Body>
DEVICE void for_channels(int64 i, const Divisor& channels, const Divisor& cells, const Enter& enter, const Body& body) {
  unsigned row = static_cast<unsigned>(i), cell = cells.split(row), channel = channels.split(row);
  enter(channel);
#pragma unroll
  for (int j = 0; j < COUNT; ++j) {
    body(j);
    if (j + 1 < COUNT && ++cell == cells.divisor) {
      cell = 0;
      channel = channel + 1 == channels.divisor ? 0 : channel + 1;
      enter(channel);
    }
  }
}

#define SIZES unsigned channels, uint64 channels_reciprocal, unsigned cells, uint64 cells_reciprocal

// `kept` gets x, which y may overwrite; residual and kept may be null.
template <int COUNT>
__global__ void __launch_bounds__(THREADS)
bn_apply(int64 n, SIZES, const float* x, const float* residual, const Channel* __restrict__ all, float slope, float* y,
         float* __restrict__ kept) {
  for_each_pack<COUNT>(n, [&](int64 i, auto pack) {
    constexpr int count = decltype(pack)::count;
    auto values = load_packed<count>(x + i);
    Packed<float, count> others = {};
    if (residual) others = load_packed<count>(residual + i);
    if (kept) store_packed(kept + i, values);
    Channel c;
    for_channels<count>(
        i, Divisor{channels, channels_reciprocal}, Divisor{cells, cells_reciprocal}, [&](unsigned channel) { c = load_four(all, channel); },
        [&](int j) { values.v[j] = relu(normalised(values.v[j], c) + others.v[j], slope); });
    store_packed(y + i, values);
  });
}

// x and y as for bn_reduce. dx gets its gradient and dresidual the residual's; either may be null, and may be dy.
template <int COUNT>
__global__ void __launch_bounds__(THREADS)
bn_apply_backward(int64 n, SIZES, const float* x, const float* y, const float* dy, const Channel* __restrict__ all,
                  const Slopes* __restrict__ slopes, float slope, float* dx, float* dresidual) {
  for_each_pack<COUNT>(n, [&](int64 i, auto pack) {
    constexpr int count = decltype(pack)::count;
    const auto read = load_gradients<count>(i, x, y, dy);
    Packed<float, count> gradients, results;
    Channel c;
    Slopes s;
    for_channels<count>(
        i, Divisor{channels, channels_reciprocal}, Divisor{cells, cells_reciprocal},
        [&](unsigned channel) { c = load_four(all, channel), s = load_four(slopes, channel); },
        [&](int j) {
          gradients.v[j] = read.gradient(j, c, slope);
          results.v[j] = s.scale * (gradients.v[j] + fmaf(s.along, read.distance(j, c), s.shift));
        });
    if (dx) store_packed(dx + i, results);
    if (dresidual) store_packed(dresidual + i, gradients);
  });
}
