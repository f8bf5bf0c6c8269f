// Depthwise convolution: every channel of x (N, C, H, W) is filtered by its own w (C, 1, R, S) to y (N, C, P, Q).
//
// Layout: dense arrays of less than 2^31 elements. Mapping: a thread of the image kernels computes ROWS results below
// each other, or one; neighbouring threads neighbouring columns. A block of the filters' kernel takes a channel, a part
// of its cells and TAPS weights.
// Bound: memory; 4 bytes a cell of x and of y in each direction. Rows are read again for every row of the kernel that
// meets them; they come from the first-level cache.
#include "cell_walk.cuh"
#include "epilogue.cuh"

struct Plane {
  int rows, columns;
  DEVICE bool has(int row, int column) const {
    return unsigned(row) < unsigned(rows) && unsigned(column) < unsigned(columns);
  }
};
struct Steps {
  int rows, columns;
};

// Kernels of K x K, the same stride along both axes, no gaps: a thread slides down over the rows of its results.
// `turned`: the weights are taken from the last to the first, which is the backward pass to x where the stride is 1.
template <int K, int STRIDE, int ROWS>
__global__ void __launch_bounds__(256)
depthwise_slide(unsigned threads, int channels, const float* __restrict__ x, int height, int width,
                const float* __restrict__ w, bool turned, int row_pad, int column_pad, float* __restrict__ y,
                int out_rows, int out_columns, ENDING) {
  const unsigned i = blockIdx.x * 256 + threadIdx.x;
  if (i >= threads) return;
  const int q = i % out_columns, down = divide_up(out_rows, ROWS), p0 = i / out_columns % down * ROWS;
  const int plane = i / out_columns / down, channel = plane % channels;
  const Plane image{height, width};
  float taps[K * K], sums[ROWS] = {};
#pragma unroll
  for (int t = 0; t < K * K; ++t) taps[t] = w[channel * K * K + (turned ? K * K - 1 - t : t)];
  x += int64(plane) * height * width;
#pragma unroll
  for (int row = 0; row < (ROWS - 1) * STRIDE + K; ++row) {
    const int h = p0 * STRIDE - row_pad + row;
    float cells[K];
#pragma unroll
    for (int s = 0; s < K; ++s) {
      const int column = q * STRIDE - column_pad + s;
      cells[s] = image.has(h, column) ? x[h * width + column] : 0.0f;
    }
#pragma unroll
    for (int p = 0; p < ROWS; ++p) {
      const int r = row - p * STRIDE;
      if (r < 0 || r >= K) continue;
#pragma unroll
      for (int s = 0; s < K; ++s) sums[p] = fmaf(cells[s], taps[r * K + s], sums[p]);
    }
  }
  const Ending ending{bias, factor, residual, slope};
  const Line line = ending.line(channel);
  const int64 first = (int64(plane) * out_rows + p0) * out_columns + q;
#pragma unroll
  for (int p = 0; p < ROWS; ++p)
    if (p0 + p < out_rows) ending.store<1>(y, first + p * out_columns, {{line.at(sums[p])}});
}

// Any kernel: a thread computes one result.
template <int = 0>
__global__ void __launch_bounds__(256)
depthwise_forward(unsigned threads, int channels, const float* __restrict__ x, int height, int width,
                  const float* __restrict__ w, int kernel_rows, int kernel_columns, int row_stride, int column_stride,
                  int row_pad, int column_pad, int row_dilation, int column_dilation, float* __restrict__ y, int out_rows,
                  int out_columns, ENDING) {
  const unsigned i = blockIdx.x * 256 + threadIdx.x;
  if (i >= threads) return;
  const int q = i % out_columns, p = i / out_columns % out_rows, plane = i / out_columns / out_rows;
  const int channel = plane % channels;
  const Plane image{height, width};
  x += int64(plane) * height * width;
  w += channel * kernel_rows * kernel_columns;
  float sum = 0;
  for (int r = 0; r < kernel_rows; ++r)
    for (int s = 0; s < kernel_columns; ++s) {
      const int h = p * row_stride + r * row_dilation - row_pad;
      const int column = q * column_stride + s * column_dilation - column_pad;
      if (image.has(h, column)) sum = fmaf(x[h * width + column], w[r * kernel_columns + s], sum);
    }
  const Ending ending{bias, factor, residual, slope};
  ending.store<1>(y, i, {{ending.line(channel).at(sum)}});
}

// The backward pass to x; a thread computes one result. K and STRIDE are 0 where they are known only at run time. The
// kernel positions that meet a cell are a stride apart, unless there are gaps in the kernel.
template <int K, int STRIDE>
__global__ void __launch_bounds__(256)
depthwise_backward(unsigned threads, int channels, const float* __restrict__ dy, int out_rows, int out_columns,
                   const float* __restrict__ w, int kernel_rows, int kernel_columns, int row_stride, int column_stride,
                   int row_pad, int column_pad, int row_dilation, int column_dilation, float* __restrict__ dx, int height,
                   int width, ENDING) {
  const unsigned i = blockIdx.x * 256 + threadIdx.x;
  if (i >= threads) return;
  if constexpr (K > 0) {
    kernel_rows = kernel_columns = K;
    row_stride = column_stride = STRIDE;
    row_dilation = column_dilation = 1;
  }
  const int column = i % width, h = i / width % height, plane = i / width / height, channel = plane % channels;
  const Plane image{out_rows, out_columns};
  dy += int64(plane) * out_rows * out_columns;
  w += channel * kernel_rows * kernel_columns;
  const int top = h + row_pad, left = column + column_pad;
  const Steps first{row_dilation == 1 ? top % row_stride : 0, column_dilation == 1 ? left % column_stride : 0};
  const Steps step{row_dilation == 1 ? row_stride : 1, column_dilation == 1 ? column_stride : 1};
  float sum = 0;
#pragma unroll (K > 0 ? K : 1)
  for (int r = first.rows; r < kernel_rows; r += step.rows) {
    const int p = top - r * row_dilation;
    if (p < 0 || p % row_stride) continue;
#pragma unroll (K > 0 ? K : 1)
    for (int s = first.columns; s < kernel_columns; s += step.columns) {
      const int q = left - s * column_dilation;
      if (q < 0 || q % column_stride || !image.has(p / row_stride, q / column_stride)) continue;
      sum = fmaf(dy[p / row_stride * out_columns + q / column_stride], w[r * kernel_columns + s], sum);
    }
  }
  const Ending ending{bias, factor, residual, slope};
  ending.store<1>(dx, i, {{ending.line(channel).at(sum)}});
}

// dw += dy x. blockIdx.x is the channel, blockIdx.y takes `cells_each` cells of y in all images, blockIdx.z TAPS weights.
// A thread goes on by 256 cells: n_step images, p_step rows and q_step columns. With more than one part each leaves its
// sums in `partials` (part, C, R S).
template <int TAPS>
__global__ void __launch_bounds__(256)
depthwise_weights(unsigned cells, unsigned cells_each, int channels, const float* __restrict__ x, int height, int width,
                  const float* __restrict__ dy, int out_rows, int out_columns, int kernel_rows, int kernel_columns,
                  int row_stride, int column_stride, int row_pad, int column_pad, int row_dilation, int column_dilation,
                  int n_step, int p_step, int q_step, float* __restrict__ dw, float* __restrict__ partials) {
  const int channel = blockIdx.x, tap_count = kernel_rows * kernel_columns, first_tap = blockIdx.z * TAPS;
  const unsigned begin = blockIdx.y * cells_each, end = min(cells, begin + cells_each);
  const Plane image{height, width};
  Steps taps[TAPS];
  float sums[TAPS] = {};
#pragma unroll
  for (int t = 0; t < TAPS; ++t) {
    const int tap = min(first_tap + t, tap_count - 1);  // those beyond the last are not stored
    taps[t] = {tap / kernel_columns * row_dilation - row_pad, tap % kernel_columns * column_dilation - column_pad};
  }
  CellWalk walk(begin + threadIdx.x, out_rows, out_columns);
  for (unsigned cell = begin + threadIdx.x; cell < end; cell += 256) {
    const int64 plane = int64(walk.n) * channels + channel;
    const float gradient = dy[(plane * out_rows + walk.p) * out_columns + walk.q];
    const float* first = x + plane * height * width;
    const int row = walk.p * row_stride, column = walk.q * column_stride;
#pragma unroll
    for (int t = 0; t < TAPS; ++t) {
      const int h = row + taps[t].rows, w = column + taps[t].columns;
      if (image.has(h, w)) sums[t] = fmaf(gradient, first[h * width + w], sums[t]);
    }
    walk.advance(n_step, p_step, q_step, out_rows, out_columns);
  }
#pragma unroll
  for (int t = 0; t < TAPS; ++t) {
    const float sum = block_sum<256>(sums[t]);
    if (threadIdx.x != 0 || first_tap + t >= tap_count) continue;
    const int at = channel * tap_count + first_tap + t;
    if (gridDim.y > 1)
      partials[int64(blockIdx.y) * channels * tap_count + at] = sum;
    else
      dw[at] += sum;
  }
}
