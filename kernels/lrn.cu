// Local response normalisation: y = x s^-beta with s = k + weight (the sum of x^2 over a window around each x), and
// dx = dy s^-beta - 2 beta weight x (the sum over the window of x dy s^-beta / s).
//
// Layout: x, y, dy, dx, s are (N, C, H, W), row-major; in the kernels named `last` the channels of a cell lie side by
// side. Mapping, across channels: a thread goes along CHANNELS of a place (or of COUNT neighbouring ones), keeping the
// window in registers, so that everything is read once; s is worked out again in backward. Where they lie side by side,
// a thread takes COUNT channels, and finds those around them in the caches. Within a channel: a thread for each cell,
// the windows come from the caches.
// Bound: memory; across channels forward 8 bytes an element, backward 12, and 4 and 8 for each channel beyond both ends
// of a part; within a channel 12 forward and 36 backward.
#include "division.cuh"
#include "elementwise.cuh"

// s^-beta; square roots for the usual beta, which cost less than a general power.
DEVICE float power(float s, float beta) {
  if (beta != 0.75f) return powf(s, -beta);
  const float root = rsqrtf(s);
  return root * sqrtf(root);
}

// A window over channels of the last SIZE packs that came in, the oldest first.
template <int SIZE, int COUNT>
struct Window {
  Packed<float, COUNT> v[SIZE] = {};
  DEVICE void push(const Packed<float, COUNT>& next) {
#pragma unroll
    for (int i = 0; i + 1 < SIZE; ++i) v[i] = v[i + 1];
    v[SIZE - 1] = next;
  }
  DEVICE float sum(int j) const {
    float total = 0;
#pragma unroll
    for (int i = 0; i < SIZE; ++i) total += v[i].v[j];
    return total;
  }
  DEVICE float squares(int j) const {
    float total = 0;
#pragma unroll
    for (int i = 0; i < SIZE; ++i) total = fmaf(v[i].v[j], v[i].v[j], total);
    return total;
  }
};

// The channels of a part, and where channel 0 of this thread's place lies.
struct Line {
  int begin, end;
  int64 first;
};
#define PLACES unsigned packs, unsigned packs_of_plane, uint64 reciprocal, int channels, int part_channels
// Thread i of packs takes pack i % packs_of_plane of image i / packs_of_plane; blockIdx.y says which channels.
template <int COUNT>
DEVICE Line line_of(unsigned i, const Divisor& planes, int channels, int part_channels) {
  unsigned image = i;
  const unsigned pack = planes.split(image);
  const int begin = blockIdx.y * part_channels;
  const int64 plane = int64(planes.divisor) * COUNT;
  return {begin, min(begin + part_channels, channels), image * plane * channels + int64(pack) * COUNT};
}

// COUNT > 1 needs H W to be a multiple of it.
template <int SIZE, int COUNT>
__global__ void __launch_bounds__(256)
lrn_across_forward(PLACES, float k, float weight, float beta, const float* __restrict__ x, float* __restrict__ y) {
  constexpr int HALF = SIZE / 2;
  const unsigned i = blockIdx.x * 256 + threadIdx.x;
  if (i >= packs) return;
  const Line line = line_of<COUNT>(i, Divisor{packs_of_plane, reciprocal}, channels, part_channels);
  const int64 plane = int64(packs_of_plane) * COUNT;
  Window<SIZE, COUNT> window;
  // Channel `ahead` comes in, and then the window lies around channel ahead - HALF.
#pragma unroll 2
  for (int ahead = line.begin - HALF; ahead < line.end + HALF; ++ahead) {
    Packed<float, COUNT> next = {};
    if (ahead >= 0 && ahead < channels) next = load_packed<COUNT>(x + line.first + ahead * plane);
    window.push(next);
    const int channel = ahead - HALF;
    if (channel < line.begin) continue;
    Packed<float, COUNT> result;
#pragma unroll
    for (int j = 0; j < COUNT; ++j)
      result.v[j] = window.v[SIZE - 1 - HALF].v[j] * power(fmaf(weight, window.squares(j), k), beta);
    store_packed(y + line.first + channel * plane, result);
  }
}

template <int SIZE, int COUNT>
__global__ void __launch_bounds__(256)
lrn_across_backward(PLACES, float k, float weight, float beta, const float* __restrict__ x,
                    const float* __restrict__ dy, float* __restrict__ dx) {
  constexpr int HALF = SIZE / 2;
  const unsigned i = blockIdx.x * 256 + threadIdx.x;
  if (i >= packs) return;
  const Line line = line_of<COUNT>(i, Divisor{packs_of_plane, reciprocal}, channels, part_channels);
  const int64 plane = int64(packs_of_plane) * COUNT;
  Window<SIZE, COUNT> values;              // x, up to channel `ahead`
  Window<SIZE, COUNT> ratios;              // x dy s^-beta / s, up to channel ahead - HALF
  Window<HALF + 1, COUNT> direct;          // dy s^-beta, up to the same; the oldest is of channel ahead - 2 HALF
#pragma unroll(SIZE > 5 ? 1 : 2)
  for (int ahead = line.begin - 2 * HALF; ahead < line.end + 2 * HALF; ++ahead) {
    Packed<float, COUNT> next = {}, gradient = {}, ratio;
    const int middle = ahead - HALF, channel = ahead - 2 * HALF;
    if (ahead >= 0 && ahead < channels) next = load_packed<COUNT>(x + line.first + ahead * plane);
    if (middle >= 0 && middle < channels) gradient = load_packed<COUNT>(dy + line.first + middle * plane);
    values.push(next);
#pragma unroll
    for (int j = 0; j < COUNT; ++j) {
      const float s = fmaf(weight, values.squares(j), k);
      gradient.v[j] *= power(s, beta);
      ratio.v[j] = values.v[SIZE - 1 - HALF].v[j] * gradient.v[j] / s;
    }
    if (middle < 0 || middle >= channels) gradient = {}, ratio = {};  // k may be 0
    ratios.push(ratio);
    direct.push(gradient);
    if (channel < line.begin) continue;
    Packed<float, COUNT> result;
#pragma unroll
    for (int j = 0; j < COUNT; ++j)
      result.v[j] = fmaf(-2 * beta * weight * values.v[0].v[j], ratios.sum(j), direct.v[0].v[j]);
    store_packed(dx + line.first + channel * plane, result);
  }
}

// Channels that lie side by side, in packs of COUNT: those around pack i from REACH packs before it to REACH behind it.
// Those of other cells count as 0.
template <int SIZE, int COUNT>
struct Around {
  static constexpr int HALF = SIZE / 2, REACH = (HALF + COUNT - 1) / COUNT, OWN = REACH * COUNT;
  float v[OWN + COUNT + OWN];
  // `load` gives the pack that lies so far from pack i, which is the `place`-th of the `packs` of its cell.
  template <class Load>
  DEVICE Around(int place, int packs, const Load& load) {
#pragma unroll
    for (int step = -REACH; step <= REACH; ++step) {
      Packed<float, COUNT> next = {};
      if (place + step >= 0 && place + step < packs) next = load(step);
#pragma unroll
      for (int j = 0; j < COUNT; ++j) v[OWN + step * COUNT + j] = next.v[j];
    }
  }
  DEVICE float own(int j) const { return v[OWN + j]; }
  DEVICE float sum(int j) const {
    float total = 0;
#pragma unroll
    for (int i = -HALF; i <= HALF; ++i) total += v[OWN + j + i];
    return total;
  }
  DEVICE float squares(int j) const {
    float total = 0;
#pragma unroll
    for (int i = -HALF; i <= HALF; ++i) total = fmaf(v[OWN + j + i], v[OWN + j + i], total);
    return total;
  }
};
#define CELLS unsigned packs, unsigned packs_of_cell, uint64 reciprocal

template <int SIZE, int COUNT>
__global__ void __launch_bounds__(256)
lrn_last_forward(CELLS, float k, float weight, float beta, const float* __restrict__ x, float* __restrict__ y) {
  unsigned i = blockIdx.x * 256 + threadIdx.x;
  if (i >= packs) return;
  const int64 first = int64(i) * COUNT;
  const int place = Divisor{packs_of_cell, reciprocal}.split(i);
  const auto load = [&](int step) { return load_packed<COUNT>(x + first + step * COUNT); };
  const Around<SIZE, COUNT> values(place, packs_of_cell, load);
  Packed<float, COUNT> result;
#pragma unroll
  for (int j = 0; j < COUNT; ++j) result.v[j] = values.own(j) * power(fmaf(weight, values.squares(j), k), beta);
  store_packed(y + first, result);
}

// A block leaves the ratios x dy s^-beta / s of its packs in shared memory, and then goes over all of them but REACH at
// both ends, which are the neighbouring blocks' own.
template <int SIZE, int COUNT>
__global__ void __launch_bounds__(256)
lrn_last_backward(CELLS, float k, float weight, float beta, const float* __restrict__ x, const float* __restrict__ dy,
                  float* __restrict__ dx) {
  constexpr int REACH = Around<SIZE, COUNT>::REACH;
  __shared__ __align__(16) float ratios[256 * COUNT];
  const int64 i = int64(blockIdx.x) * (256 - 2 * REACH) + threadIdx.x - REACH, first = i * COUNT;
  const bool inside = i >= 0 && i < packs;
  unsigned cell = inside ? i : 0;
  const int place = Divisor{packs_of_cell, reciprocal}.split(cell);
  float own[COUNT];                        // x
  Packed<float, COUNT> direct = {}, ratio = {};  // dy s^-beta; the ratio
  if (inside) {
    const auto load = [&](int step) { return load_packed<COUNT>(x + first + step * COUNT); };
    const Around<SIZE, COUNT> values(place, packs_of_cell, load);
    direct = load_packed<COUNT>(dy + first);
#pragma unroll
    for (int j = 0; j < COUNT; ++j) {
      const float s = fmaf(weight, values.squares(j), k);
      own[j] = values.own(j);
      direct.v[j] *= power(s, beta);
      ratio.v[j] = own[j] * direct.v[j] / s;
    }
  }
  store_packed(ratios + threadIdx.x * COUNT, ratio);
  __syncthreads();
  if (!inside || threadIdx.x < REACH || threadIdx.x >= 256 - REACH) return;
  const auto load = [&](int step) { return load_packed<COUNT>(ratios + (int(threadIdx.x) + step) * COUNT); };
  const Around<SIZE, COUNT> around(place, packs_of_cell, load);
  Packed<float, COUNT> result;
#pragma unroll
  for (int j = 0; j < COUNT; ++j) result.v[j] = fmaf(-2 * beta * weight * own[j], around.sum(j), direct.v[j]);
  store_packed(dx + first, result);
}

// The sum of f(place) over the cells of the window around element i. Cells of planes of `height` x `width` lie `step`
// elements apart: as many as channels, where those lie side by side, or 1.
template <class F>
DEVICE float sum_within(unsigned i, int half, const Divisor& height, const Divisor& width, const Divisor& step,
                        const F& f) {
  unsigned row = step.quotient(i);
  const int w = width.split(row), h = height.split(row), across = width.divisor, down = height.divisor;
  float total = 0;
  for (int dh = max(-half, -h); dh <= min(half, down - 1 - h); ++dh)
    for (int dw = max(-half, -w); dw <= min(half, across - 1 - w); ++dw)
      total += f(i + (dh * across + dw) * int(step.divisor));
  return total;
}
#define PLANES                                                                                              \
  unsigned n, unsigned height, uint64 height_reciprocal, unsigned width, uint64 width_reciprocal, unsigned step, \
      uint64 step_reciprocal, int half
#define SUM_WITHIN(i, f)                                                                     \
  sum_within(i, half, Divisor{height, height_reciprocal}, Divisor{width, width_reciprocal}, \
             Divisor{step, step_reciprocal}, f)

template <int = 0>
__global__ void __launch_bounds__(256)
lrn_within_forward(PLANES, float weight, float beta, const float* __restrict__ x, float* __restrict__ scale,
                   float* __restrict__ y) {
  for (unsigned i = blockIdx.x * 256 + threadIdx.x; i < n; i += gridDim.x * 256) {
    const float s = fmaf(weight, SUM_WITHIN(i, [&](unsigned at) { return x[at] * x[at]; }), 1.0f);
    if (scale) scale[i] = s;
    y[i] = x[i] * power(s, beta);
  }
}

// x dy s^-beta / s of every cell, which lrn_within_backward sums over windows.
template <int = 0>
__global__ void __launch_bounds__(256)
lrn_within_ratios(unsigned n, float beta, const float* __restrict__ x, const float* __restrict__ scale,
                  const float* __restrict__ dy, float* __restrict__ ratios) {
  for (unsigned i = blockIdx.x * 256 + threadIdx.x; i < n; i += gridDim.x * 256)
    ratios[i] = x[i] * dy[i] * power(scale[i], beta) / scale[i];
}
template <int = 0>
__global__ void __launch_bounds__(256)
lrn_within_backward(PLANES, float weight, float beta, const float* __restrict__ x, const float* __restrict__ scale,
                    const float* __restrict__ ratios, const float* __restrict__ dy, float* __restrict__ dx) {
  for (unsigned i = blockIdx.x * 256 + threadIdx.x; i < n; i += gridDim.x * 256) {
    const float along = SUM_WITHIN(i, [&](unsigned at) { return ratios[at]; });
    dx[i] = fmaf(-2 * beta * weight * x[i], along, dy[i] * power(scale[i], beta));
  }
}
