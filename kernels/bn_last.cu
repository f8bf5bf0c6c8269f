// Batch normalisation where the channels of a cell lie side by side: the same formulas as in bn.cu.
//
// Layout: x, y, dy, dx are (rows, channels), rows being the cells of all images; y may be x, dx may be dy. Partial sums:
// (channels, parts, numbers), which bn_finish and bn_finish_backward of bn.cu read. Mapping: channels_last.cuh; a thread
// keeps the numbers of its channels in registers.
// Bound: memory; forward 4 bytes an element for the reduction and 8 for the sweep, backward 8 and 12; with a residual
// forward 4 and 12, backward 12 and 20.
#include "bn.cuh"
#include "channels_last.cuh"

template <class Four, int COUNT>
DEVICE void load_fours(Four (&numbers)[COUNT], const Four* all, int channel) {
#pragma unroll
  for (int j = 0; j < COUNT; ++j) numbers[j] = load_four(all, channel + j);
}

// The sums of share blockIdx.y of the rows. Where Sums is Gradients, x may be null, and y is null unless there is a
// residual.
template <class Sums, int COUNT>
__global__ void __launch_bounds__(THREADS)
bn_reduce_last(int rows, int channels, int lanes, const float* x, const float* y, const float* dy, const Channel* all,
               float slope, float* __restrict__ partial) {
  const Column<COUNT> column(lanes, channels);
  Channel c[COUNT] = {};
  if (Sums::READS_DY && column.inside) load_fours(c, all, column.channel);
  Sums sums[COUNT];
  column.template for_each_row<Sums::READS_DY ? 2 : 4>(rows, channels, [&](int64 at) {
    if constexpr (Sums::READS_DY) {
      const auto pack = load_gradients<COUNT>(at, x, y, dy);
#pragma unroll
      for (int j = 0; j < COUNT; ++j) sums[j].take(pack.distance(j, c[j]), pack.gradient(j, c[j], slope));
    } else {
      const auto values = load_packed<COUNT>(x + at);
#pragma unroll
      for (int j = 0; j < COUNT; ++j) sums[j].take(values.v[j], 0);
    }
  });

  // First the lines of a warp are merged, then the warps.
  __shared__ float kept[WARPS][32][COUNT][Sums::NUMBERS];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int j = 0; j < COUNT; ++j) {
    sums[j].close();
    for (int bits = 16; bits >= lanes; bits >>= 1) sums[j].merge_lane(bits);
    if (lane < lanes) sums[j].store(kept[warp][lane][j]);
  }
  __syncthreads();
  if (int(threadIdx.x) >= lanes || !column.inside) return;
#pragma unroll
  for (int j = 0; j < COUNT; ++j) {
    for (int other = 1; other < WARPS; ++other) sums[j].merge_stored(kept[other][lane][j]);
    sums[j].store(partial + (int64(column.channel + j) * gridDim.y + blockIdx.y) * Sums::NUMBERS);
  }
}

// `kept` gets x, which y may overwrite; residual and kept may be null.
template <int COUNT>
__global__ void __launch_bounds__(THREADS)
bn_apply_last(int rows, int channels, int lanes, const float* x, const float* residual, const Channel* __restrict__ all,
              float slope, float* y, float* __restrict__ kept) {
  const Column<COUNT> column(lanes, channels);
  if (!column.inside) return;
  Channel c[COUNT];
  load_fours(c, all, column.channel);
  column.template for_each_row<1>(rows, channels, [&](int64 at) {
    auto values = load_packed<COUNT>(x + at);
    Packed<float, COUNT> others = {};
    if (residual) others = load_packed<COUNT>(residual + at);
    if (kept) store_packed(kept + at, values);
#pragma unroll
    for (int j = 0; j < COUNT; ++j) values.v[j] = relu(normalised(values.v[j], c[j]) + others.v[j], slope);
    store_packed(y + at, values);
  });
}

// x and y as for bn_reduce_last. dx gets its gradient and dresidual the residual's; either may be null, and may be dy.
template <int COUNT>
__global__ void __launch_bounds__(THREADS)
bn_apply_backward_last(int rows, int channels, int lanes, const float* x, const float* y, const float* dy,
                       const Channel* __restrict__ all, const Slopes* __restrict__ slopes, float slope, float* dx,
                       float* dresidual) {
  const Column<COUNT> column(lanes, channels);
  if (!column.inside) return;
  Channel c[COUNT];
  Slopes s[COUNT];
  load_fours(c, all, column.channel);
  load_fours(s, slopes, column.channel);
  column.template for_each_row<1>(rows, channels, [&](int64 at) {
    const auto read = load_gradients<COUNT>(at, x, y, dy);
    Packed<float, COUNT> gradients, results;
#pragma unroll
    for (int j = 0; j < COUNT; ++j) {
      gradients.v[j] = read.gradient(j, c[j], slope);
      results.v[j] = s[j].scale * (gradients.v[j] + fmaf(s[j].along, read.distance(j, c[j]), s[j].shift));
    }
    if (dx) store_packed(dx + at, results);
    if (dresidual) store_packed(dresidual + at, gradients);
  });
}
