// Convolution in fp32 on the ordinary cores: the gradient of the filters, as implicit matrix products.
//
// Layout: x (N, C, H, W), dy (N, K, P, Q), dw (K, C / group, R, S), all dense. A product's rows are filters, its columns
// the weights of a filter, its terms the cells of y in all images.
// Mapping: conv_tile.cuh; blockIdx.y is the group, blockIdx.z a part of the terms.
// Bound: 2 K (C / group) R S N P Q FLOPs; a block reads BM + BN floats for each term of its BM BN results.
#include "cell_walk.cuh"
#include "conv_tile.cuh"
#include "unrolled.cuh"

DEVICE int pair_of(int row, int column) { return static_cast<int>(unsigned(row) << 16 | (unsigned(column) & 0xffffu)); }
DEVICE int row_of(int pair) { return pair >> 16; }
DEVICE int column_of(int pair) { return static_cast<short>(pair & 0xffff); }

// dw += dy x: rows are filters, columns the weights of a filter, terms the cells of y in all images. blockIdx.z takes
// `cells_each` of them (a multiple of BK); with more than one part each leaves its sums in `partials` (part, K, C / group
// R S). A thread is at one cell, of several filters and several weights.
template <int BM, int BN, int BK, int TM, int TN>
__global__ void __launch_bounds__(BM / TM * (BN / TN), BM / TM * (BN / TN) == 128 ? 3 : 2)
correlate(int images, unsigned cells_each, const float* __restrict__ x, int channels, int height, int width,
          const float* __restrict__ dy, int filters, int out_rows, int out_columns, int kernel_rows, int kernel_columns,
          int row_stride, int column_stride, int row_pad, int column_pad, int row_dilation, int column_dilation,
          int n_step, int p_step, int q_step, float* __restrict__ dw, float* __restrict__ partials) {
  using Sums = TileSums<BM, BN, BK, TM, TN>;
  constexpr int THREADS = Sums::THREADS, APART = THREADS / BK, A_EACH = BM / APART, B_EACH = BN / APART;
  static_assert(THREADS % BK == 0 && BM % APART == 0 && BN % APART == 0);
  __shared__ __align__(16) typename Sums::A a_tile[2];
  __shared__ __align__(16) typename Sums::B b_tile[2];
  const int groups = gridDim.y, group = blockIdx.y, rows = filters / groups, group_channels = channels / groups;
  const int taps = kernel_rows * kernel_columns, columns = group_channels * taps;
  const unsigned across = divide_up(columns, BN);
  const int row0 = blockIdx.x / across * BM, column0 = blockIdx.x % across * BN;
  const unsigned plane = out_rows * out_columns, all = images * plane;
  const unsigned begin = blockIdx.z * cells_each, end = min(all, begin + cells_each);
  const int kk = threadIdx.x % BK, side = threadIdx.x / BK;
  const Images x_images{channels, height, width}, y_images{filters, out_rows, out_columns};
  x += int64(group) * group_channels * x_images.plane();
  dy += (int64(group) * rows + row0 + side) * plane;

  int offset[B_EACH], tap[B_EACH];  // tap: its row and column
  const int columns_here = columns - column0 - side, rows_here = rows - row0 - side;
#pragma unroll
  for (int j = 0; j < B_EACH; ++j) {
    const int column = j * APART < columns_here ? column0 + side + j * APART : 0, place = column % taps;
    const int r = place / kernel_columns * row_dilation - row_pad;
    const int s = place % kernel_columns * column_dilation - column_pad;
    tap[j] = pair_of(r, s);
    offset[j] = column / taps * x_images.plane() + r * width + s;
  }
  float a_next[A_EACH], b_next[B_EACH];
  CellWalk walk(begin + kk, out_rows, out_columns);
  auto fetch = [&](unsigned cell) {
    const int a_rows = cell + kk < end ? rows_here : 0, b_columns = cell + kk < end ? columns_here : 0;
    const float* dy_cell = dy + (walk.n * y_images.floats() + walk.p * out_columns + walk.q);
#pragma unroll
    for (int i = 0; i < A_EACH; ++i, dy_cell += int64(APART) * plane)
      a_next[i] = i * APART < a_rows ? *dy_cell : 0.0f;
    const int row = walk.p * row_stride, column = walk.q * column_stride;
    const float* x_cell = x + (walk.n * x_images.floats() + int64(row) * width + column);
#pragma unroll
    for (int j = 0; j < B_EACH; ++j) {
      const bool inside = j * APART < b_columns && unsigned(row + row_of(tap[j])) < unsigned(height) &&
                          unsigned(column + column_of(tap[j])) < unsigned(width);
      b_next[j] = inside ? x_cell[offset[j]] : 0.0f;
    }
    walk.advance(n_step, p_step, q_step, out_rows, out_columns);
  };
  auto keep = [&](int slot) {
#pragma unroll
    for (int i = 0; i < A_EACH; ++i) a_tile[slot][kk][side + i * APART] = a_next[i];
#pragma unroll
    for (int j = 0; j < B_EACH; ++j) b_tile[slot][kk][side + j * APART] = b_next[j];
  };

  Sums sums;
  fetch(begin);
  keep(0);
  __syncthreads();
  int slot = 0;
  for (unsigned cell = begin; cell < end; cell += BK, slot ^= 1) {
    const bool more = end - cell > BK;
    if (more) fetch(cell + BK);
    sums.multiply(a_tile[slot], b_tile[slot]);
    if (more) keep(slot ^ 1);
    __syncthreads();
  }

  float* const target = gridDim.z > 1 ? partials + blockIdx.z * (int64(filters) * columns) : dw;
  int row = row0 + Sums::row(0);
  float* to = target + (int64(group) * rows + row) * columns + column0;
  unrolled<TM>([&](int i) {
    if (i > 0) {
      row += Sums::row_step(i);
      to += int64(Sums::row_step(i)) * columns;
    }
    if (row >= rows) return;
#pragma unroll
    for (int j = 0; j < TN; ++j) {
      const int column = Sums::column(j);
      if (column < columns - column0) to[column] = sums.sums[i][j] + (gridDim.z > 1 ? 0.0f : to[column]);
    }
  });
}
