// Depthwise convolution where channels lie side by side: every channel of x (N, H, W, C) is filtered by its own w (C,
// 1, R, S) to y (N, P, Q, C).
//
// Layout: dense arrays of less than 2^31 elements. Mapping: channels_last.cuh; a thread has COUNT channels, and goes
// over places (images, rows, columns) of results with the weights of its channels at hand.
// Bound: memory; 4 bytes a cell of x and of y in each direction. Cells that several windows meet come from the caches.
#include "cell_walk.cuh"
#include "channels_last.cuh"
#include "division.cuh"
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

// So many places, `down` rows of `across` in each image.
#define PLACES                                                                                            \
  unsigned places, unsigned down, uint64 down_reciprocal, unsigned across, uint64 across_reciprocal, int lanes, \
      int channels
#define WINDOW_PARAMETERS                                                                             \
  int kernel_rows, int kernel_columns, int row_stride, int column_stride, int row_pad, int column_pad, \
      int row_dilation, int column_dilation
#define ALL_PLACES places, Divisor{down, down_reciprocal}, Divisor{across, across_reciprocal}

// Calls body(image, row, column) for every place of the block's share that is this thread's.
template <int COUNT, class Body>
DEVICE void for_each_place(const Column<COUNT>& column, unsigned places, const Divisor& down, const Divisor& across,
                           const Body& body) {
  const unsigned share = divide_up(places, gridDim.y), end = min(blockIdx.y * share + share, places);
  for (unsigned place = blockIdx.y * share + column.line; place < end; place += column.lines) {
    unsigned image = place;
    const int second = across.split(image), first = down.split(image);
    body(int(image), first, second);
  }
}

// Brings the weights of a block's channels, `taps` each, into shared memory; those of a channel begin `pitch` floats
// after the last one's.
DEVICE void stage_weights(const float* w, int lanes, int count, int channels, int taps, int pitch, float* staged) {
  const int first = blockIdx.x * lanes * count, floats = min(lanes * count, channels - first) * taps;
  for (int i = threadIdx.x; i < floats; i += blockDim.x) staged[i / taps * pitch + i % taps] = w[first * taps + i];
  __syncthreads();
}

// The K x K weights of a thread's channels. `turned`: from the last to the first.
template <int K, int COUNT>
struct Taps {
  Packed<float, COUNT> v[K * K];
  DEVICE Taps(const float* staged, bool turned) {
#pragma unroll
    for (int e = 0; e < K * K; ++e) {
      const auto some = load_packed<COUNT>(staged + e * COUNT);
#pragma unroll
      for (int j = 0; j < COUNT; ++j) v[(e * COUNT + j) % (K * K)].v[(e * COUNT + j) / (K * K)] = some.v[j];
    }
    if (!turned) return;
#pragma unroll
    for (int t = 0; t < K * K / 2; ++t) {
      const auto other = v[t];
      v[t] = v[K * K - 1 - t];
      v[K * K - 1 - t] = other;
    }
  }
};

template <int COUNT>
DEVICE void add_product(Packed<float, COUNT>& sum, const Packed<float, COUNT>& a, const Packed<float, COUNT>& b) {
#pragma unroll
  for (int j = 0; j < COUNT; ++j) sum.v[j] = fmaf(a.v[j], b.v[j], sum.v[j]);
}

// What is done to the results of a thread's channels before they are stored.
template <int COUNT>
struct ColumnEnding : Ending {
  Line lines[COUNT];
  DEVICE ColumnEnding(const Ending& all, int channel) : Ending(all) {
#pragma unroll
    for (int j = 0; j < COUNT; ++j) lines[j] = line(channel + j);
  }
  DEVICE void store_sums(float* y, int at, Packed<float, COUNT> sums) const {
#pragma unroll
    for (int j = 0; j < COUNT; ++j) sums.v[j] = lines[j].at(sums.v[j]);
    store(y, at, sums);
  }
};

// Kernels of K x K, the same stride along both axes, no gaps: a thread slides down over ROWS results, which are a
// place. `turned`: the weights are taken from the last to the first, which is the backward pass to x where the stride
// is 1.
template <int K, int STRIDE, int ROWS, int COUNT>
__global__ void __launch_bounds__(256)
depthwise_last_slide(PLACES, const float* __restrict__ x, int height, int width, const float* __restrict__ w,
                     bool turned, int row_pad, int column_pad, float* __restrict__ y, int out_rows, int out_columns,
                     ENDING) {
  __shared__ __align__(16) float staged[32 * COUNT * K * K];
  const Column<COUNT> column(lanes, channels);
  stage_weights(w, lanes, COUNT, channels, K * K, K * K, staged);
  if (!column.inside) return;
  const Taps<K, COUNT> taps(staged + threadIdx.x % lanes * COUNT * K * K, turned);
  const ColumnEnding<COUNT> ending({bias, factor, residual, slope}, column.channel);
  const Plane plane{height, width};
  for_each_place(column, ALL_PLACES, [&](int n, int group, int q) {
    const int p0 = group * ROWS;
    const float* image = x + n * height * width * channels + column.channel;
    Packed<float, COUNT> sums[ROWS] = {};
#pragma unroll
    for (int row = 0; row < (ROWS - 1) * STRIDE + K; ++row) {
      const int h = p0 * STRIDE - row_pad + row;
      Packed<float, COUNT> cells[K];
#pragma unroll
      for (int s = 0; s < K; ++s) {
        const int at = q * STRIDE - column_pad + s;
        cells[s] = {};
        if (plane.has(h, at)) cells[s] = load_packed<COUNT>(image + (h * width + at) * channels);
      }
#pragma unroll
      for (int p = 0; p < ROWS; ++p) {
        const int r = row - p * STRIDE;
        if (r < 0 || r >= K) continue;
#pragma unroll
        for (int s = 0; s < K; ++s) add_product(sums[p], cells[s], taps.v[r * K + s]);
      }
    }
    const int first = ((n * out_rows + p0) * out_columns + q) * channels + column.channel;
#pragma unroll
    for (int p = 0; p < ROWS; ++p)
      if (p0 + p < out_rows) ending.store_sums(y, first + p * out_columns * channels, sums[p]);
  });
}

// The backward pass to x of kernels of K x K and the same stride along both axes, no gaps. A place is STRIDE x STRIDE
// cells of x: those that meet the cell (p, q) of y first, p being the place's row + first_row, q its column +
// first_column. Of an ending that is long only the bias and the ReLU count.
template <int K, int STRIDE, int COUNT>
__global__ void __launch_bounds__(256)
depthwise_last_spread(PLACES, const float* __restrict__ dy, int out_rows, int out_columns, const float* __restrict__ w,
                      int row_pad, int column_pad, int first_row, int first_column, float* __restrict__ dx, int height,
                      int width, ENDING) {
  constexpr int MET = (K - 1) / STRIDE + 1;  // cells of y along an axis that a place meets
  __shared__ __align__(16) float staged[32 * COUNT * K * K];
  const Column<COUNT> column(lanes, channels);
  stage_weights(w, lanes, COUNT, channels, K * K, K * K, staged);
  if (!column.inside) return;
  const Taps<K, COUNT> taps(staged + threadIdx.x % lanes * COUNT * K * K, false);
  const ColumnEnding<COUNT> ending(LONG_OR_SHORT(false), column.channel);
  const Plane plane{out_rows, out_columns}, image{height, width};
  for_each_place(column, ALL_PLACES, [&](int n, int row, int at) {
    const int p = row + first_row, q = at + first_column;
    const float* gradients = dy + n * out_rows * out_columns * channels + column.channel;
    Packed<float, COUNT> sums[STRIDE][STRIDE] = {};
#pragma unroll
    for (int i = 0; i < MET; ++i)
#pragma unroll
      for (int j = 0; j < MET; ++j) {
        Packed<float, COUNT> gradient = {};
        if (plane.has(p - i, q - j))
          gradient = load_packed<COUNT>(gradients + ((p - i) * out_columns + q - j) * channels);
#pragma unroll
        for (int r = i * STRIDE; r < min(i * STRIDE + STRIDE, K); ++r)
#pragma unroll
          for (int s = j * STRIDE; s < min(j * STRIDE + STRIDE, K); ++s)
            add_product(sums[r % STRIDE][s % STRIDE], gradient, taps.v[r * K + s]);
      }
    const int top = p * STRIDE - row_pad, left = q * STRIDE - column_pad;
#pragma unroll
    for (int r = 0; r < STRIDE; ++r)
#pragma unroll
      for (int s = 0; s < STRIDE; ++s)
        if (image.has(top + r, left + s))
          ending.store_sums(dx, ((n * height + top + r) * width + left + s) * channels + column.channel, sums[r][s]);
  });
}

// The weights of a thread's one channel, brought into shared memory where there is room; at odd pitches neighbouring
// threads meet different banks.
constexpr int STAGED_TAPS = 14 * 14;
DEVICE const float* weights_of(const float* w, int lanes, int channels, int channel, int taps, float* staged) {
  if (taps > STAGED_TAPS) return w + channel * taps;
  stage_weights(w, lanes, 1, channels, taps, taps | 1, staged);
  return staged + threadIdx.x % lanes * (taps | 1);
}

// Any kernel: a place is one result.
template <int = 0>
__global__ void __launch_bounds__(256)
depthwise_last_forward(PLACES, const float* __restrict__ x, int height, int width, const float* __restrict__ w,
                       WINDOW_PARAMETERS, float* __restrict__ y, int out_rows, int out_columns,
                       ENDING) {
  __shared__ float staged[32 * (STAGED_TAPS + 1)];
  const Column<1> column(lanes, channels);
  const float* taps = weights_of(w, lanes, channels, column.channel, kernel_rows * kernel_columns, staged);
  if (!column.inside) return;
  const ColumnEnding<1> ending({bias, factor, residual, slope}, column.channel);
  const Plane plane{height, width};
  for_each_place(column, ALL_PLACES, [&](int n, int p, int q) {
    const float* image = x + n * height * width * channels + column.channel;
    Packed<float, 1> sum = {};
    for (int r = 0; r < kernel_rows; ++r)
      for (int s = 0; s < kernel_columns; ++s) {
        const int h = p * row_stride + r * row_dilation - row_pad;
        const int at = q * column_stride + s * column_dilation - column_pad;
        if (!plane.has(h, at)) continue;
        sum.v[0] = fmaf(image[(h * width + at) * channels], taps[r * kernel_columns + s], sum.v[0]);
      }
    ending.store_sums(y, ((n * out_rows + p) * out_columns + q) * channels + column.channel, sum);
  });
}

// The backward pass to x of any kernel: a place is one result. The kernel positions that meet a cell are a stride
// apart, unless there are gaps in the kernel.
template <int = 0>
__global__ void __launch_bounds__(256)
depthwise_last_backward(PLACES, const float* __restrict__ dy, int out_rows, int out_columns,
                        const float* __restrict__ w, WINDOW_PARAMETERS, float* __restrict__ dx, int height, int width,
                        ENDING) {
  __shared__ float staged[32 * (STAGED_TAPS + 1)];
  const Column<1> column(lanes, channels);
  const float* taps = weights_of(w, lanes, channels, column.channel, kernel_rows * kernel_columns, staged);
  if (!column.inside) return;
  const ColumnEnding<1> ending({bias, factor, residual, slope}, column.channel);
  const Plane plane{out_rows, out_columns};
  const Steps step{row_dilation == 1 ? row_stride : 1, column_dilation == 1 ? column_stride : 1};
  for_each_place(column, ALL_PLACES, [&](int n, int h, int at) {
    const float* gradients = dy + n * out_rows * out_columns * channels + column.channel;
    const int top = h + row_pad, left = at + column_pad;
    Packed<float, 1> sum = {};
    for (int r = row_dilation == 1 ? top % row_stride : 0; r < kernel_rows; r += step.rows) {
      const int p = top - r * row_dilation;
      if (p < 0 || p % row_stride) continue;
      for (int s = column_dilation == 1 ? left % column_stride : 0; s < kernel_columns; s += step.columns) {
        const int q = left - s * column_dilation;
        if (q < 0 || q % column_stride || !plane.has(p / row_stride, q / column_stride)) continue;
        const float gradient = gradients[(p / row_stride * out_columns + q / column_stride) * channels];
        sum.v[0] = fmaf(gradient, taps[r * kernel_columns + s], sum.v[0]);
      }
    }
    ending.store_sums(dx, ((n * height + h) * width + at) * channels + column.channel, sum);
  });
}

// dw += dy x. blockIdx.y takes `cells_each` cells of y in all images, blockIdx.z TAPS weights of each channel. A thread
// goes on by as many cells as the block has lines: n_step images, p_step rows and q_step columns. With more than one
// part each leaves its sums in `partials` (part, C, R S).
template <int TAPS, int COUNT>
__global__ void __launch_bounds__(256)
depthwise_last_weights(unsigned cells, unsigned cells_each, int lanes, int channels, const float* __restrict__ x,
                       int height, int width, const float* __restrict__ dy, int out_rows, int out_columns,
                       WINDOW_PARAMETERS, int n_step, int p_step, int q_step, float* __restrict__ dw,
                       float* __restrict__ partials) {
  constexpr int AT_ONCE = 3;  // weights of a channel whose sums are brought together
  static_assert(TAPS % AT_ONCE == 0, "whole rounds");
  __shared__ __align__(16) float kept[AT_ONCE][256 * COUNT];
  const int tap_count = kernel_rows * kernel_columns, first_tap = blockIdx.z * TAPS;
  const unsigned begin = blockIdx.y * cells_each, end = min(cells, begin + cells_each);
  const Column<COUNT> column(lanes, channels);
  const Plane plane{height, width};
  Steps taps[TAPS];
  Packed<float, COUNT> sums[TAPS] = {};
#pragma unroll
  for (int t = 0; t < TAPS; ++t) {
    const int tap = min(first_tap + t, tap_count - 1);  // those beyond the last are not stored
    taps[t] = {tap / kernel_columns * row_dilation - row_pad, tap % kernel_columns * column_dilation - column_pad};
  }
  CellWalk walk(begin + column.line, out_rows, out_columns);
  for (unsigned cell = begin + column.line; column.inside && cell < end; cell += column.lines) {
    const auto gradient = load_packed<COUNT>(dy + cell * channels + column.channel);
    const float* image = x + walk.n * height * width * channels + column.channel;
    const int row = walk.p * row_stride, at = walk.q * column_stride;
#pragma unroll
    for (int t = 0; t < TAPS; ++t) {
      const int h = row + taps[t].rows, w = at + taps[t].columns;
      if (plane.has(h, w)) add_product(sums[t], gradient, load_packed<COUNT>(image + (h * width + w) * channels));
    }
    walk.advance(n_step, p_step, q_step, out_rows, out_columns);
  }
  const int first_channel = blockIdx.x * lanes * COUNT, held = min(lanes * COUNT, channels - first_channel);
  float* target = gridDim.y > 1 ? partials + int64(blockIdx.y) * channels * tap_count : dw;
#pragma unroll
  for (int t0 = 0; t0 < TAPS; t0 += AT_ONCE) {
    __syncthreads();
#pragma unroll
    for (int t = 0; t < AT_ONCE; ++t) store_packed(kept[t] + threadIdx.x * COUNT, sums[t0 + t]);
    __syncthreads();
    for (int i = threadIdx.x; i < AT_ONCE * held; i += 256) {
      const int t = i / held, channel = i % held;
      if (first_tap + t0 + t >= tap_count) continue;
      float sum = 0;
      for (int line = 0; line < column.lines; ++line) sum += kept[t][line * lanes * COUNT + channel];
      float& place = target[(first_channel + channel) * tap_count + first_tap + t0 + t];
      place = gridDim.y > 1 ? sum : place + sum;
    }
  }
}
