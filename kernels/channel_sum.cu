// Sums over images and cells, channel by channel, as bias gradients are; and sums of what parts of the work have left.
//
// Layout: dy and y (images, channels, plane), or (rows, channels) where the channels of a cell lie side by side; partials
// (part, element). Mapping: one block for a part of a channel, or a tile of channels (channels_last.cuh); sums over parts
// by for_each_pack. Sums are made in the same order every time.
// Bound: memory; 4 bytes an element of dy, 12 with a ReLU's mask; 4 bytes a part and element, and 8 an element of y.
#include "channels_last.cuh"
#include "elementwise.cuh"

// y += the sum over the parts of partials (part, count), in their order. COUNT > 1 needs a count that is a multiple.
template <int COUNT>
__global__ void __launch_bounds__(256)
add_partials(int64 count, int parts, const float* __restrict__ partials, float* __restrict__ y) {
  for_each_pack<COUNT>(count, [&](int64 i, auto pack) {
    constexpr int N = decltype(pack)::count;
    Packed<float, N> sum = {};
    const float* next = partials + i;
#pragma unroll 4
    for (int part = 0; part < parts; ++part, next += count) {
      const auto more = load_packed<N>(next);
#pragma unroll
      for (int j = 0; j < N; ++j) sum.v[j] += more.v[j];
    }
    const auto old = load_packed<N>(y + i);
#pragma unroll
    for (int j = 0; j < N; ++j) sum.v[j] += old.v[j];
    store_packed(y + i, sum);
  });
}

// A ReLU going backward: dy becomes dy (y > 0 ? 1 : slope), and is stored.
template <int COUNT>
DEVICE void mask_by(Packed<float, COUNT>& dy, const float* y, float slope, float* masked) {
  const auto top = load_packed<COUNT>(y);
#pragma unroll
  for (int j = 0; j < COUNT; ++j) dy.v[j] *= (top.v[j] > 0) + slope * (top.v[j] <= 0);
  store_packed(masked, dy);
}

// dbias += dy summed over images and cells, unless dbias is null. With MASK the sums are those of `masked`, which is dy
// (y > 0 ? 1 : slope), a ReLU going backward; it is written as well and may be dy. A block takes one channel (blockIdx.x)
// and `packs_each` packs of its cells (blockIdx.y); with more than one part each leaves its sums in `partials` (part,
// channel). COUNT > 1 needs planes that are a multiple.
template <bool MASK, int COUNT>
__global__ void __launch_bounds__(256)
sum_channels(unsigned packs, unsigned packs_each, int channels, unsigned plane_packs, const float* __restrict__ y,
             const float* dy, float* masked, float slope, float* __restrict__ dbias, float* __restrict__ partials) {
  const unsigned begin = blockIdx.y * packs_each, end = min(packs, begin + packs_each), channel = blockIdx.x;
  float sum = 0;
  for (unsigned i = begin + threadIdx.x; i < end; i += 256) {
    const unsigned n = i / plane_packs, pack = i % plane_packs;
    const int64 at = ((int64(n) * channels + channel) * plane_packs + pack) * COUNT;
    auto gradient = load_packed<COUNT>(dy + at);
    if constexpr (MASK) mask_by(gradient, y + at, slope, masked + at);
#pragma unroll
    for (int j = 0; j < COUNT; ++j) sum += gradient.v[j];
  }
  if (!dbias) return;
  sum = block_sum<256>(sum);
  if (threadIdx.x != 0) return;
  if (gridDim.y > 1)
    partials[blockIdx.y * channels + channel] = sum;
  else
    dbias[channel] += sum;
}

// The same over (rows, channels); a block takes a tile of channels (blockIdx.x) and a share of the rows (blockIdx.y).
template <bool MASK, int COUNT>
__global__ void __launch_bounds__(256)
sum_channels_last(int rows, int channels, int lanes, const float* __restrict__ y, const float* dy, float* masked,
                  float slope, float* __restrict__ dbias, float* __restrict__ partials) {
  const Column<COUNT> column(lanes, channels);
  Packed<float, COUNT> sum = {};
  column.template for_each_row<4>(rows, channels, [&](int64 at) {
    auto gradient = load_packed<COUNT>(dy + at);
    if constexpr (MASK) mask_by(gradient, y + at, slope, masked + at);
#pragma unroll
    for (int j = 0; j < COUNT; ++j) sum.v[j] += gradient.v[j];
  });
  if (!dbias) return;

  // First the lines of a warp are added up, then the warps.
  __shared__ float kept[8][32][COUNT];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (float& value : sum.v)
    for (int bits = 16; bits >= lanes; bits >>= 1) value += __shfl_xor_sync(FULL_WARP, value, bits);
#pragma unroll
  for (int j = 0; j < COUNT; ++j) kept[warp][lane][j] = sum.v[j];
  __syncthreads();
  if (int(threadIdx.x) >= lanes || !column.inside) return;
#pragma unroll
  for (int j = 0; j < COUNT; ++j) {
    for (int other = 1; other < 8; ++other) sum.v[j] += kept[other][lane][j];
    if (gridDim.y > 1)
      partials[int64(blockIdx.y) * channels + column.channel + j] = sum.v[j];
    else
      dbias[column.channel + j] += sum.v[j];
  }
}
