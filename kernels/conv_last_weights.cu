// Convolution on tensor cores over channels last, backward to the filters: dw[k][tap][c] += sum over cells of
// dy[cell][k] x[the cell that the tap meets][c].
//
// Layout: x (N, H, W, groups, channels), dy (N, P, Q, groups, filters) in whole pieces, of floats or of 16 bits; dw
// (K, C / group, R, S), fp32. Floats are rounded on the way to registers. A column is a tap's channel, those that fill
// up its last piece among them.
// Mapping: one block for BM filters x BN columns and a share of the cells, BK of them a step; blockIdx.y is the share,
// blockIdx.z the group. A thread copies the same piece of dy and the same tap's piece of x for every cell it takes.
// With several shares each leaves its sums in (share, filter, column), which add_shares adds up in their order.
// Bound: 2 N K P Q C R S FLOPs; a step copies BK (BM + BN) numbers for 2 BK BM BN FLOPs.
#include "conv_last.cuh"
#include "division.cuh"

// Where the window of a cell begins: how many cells of x lie before, and its row and column.
struct alignas(16) Window {
  int pixel, top, left, unused;
};
constexpr int OUTSIDE = -(1 << 29);

// Registers of fragments from a tile of floats whose rows are steps along k. Which row of A or column of B is which is
// as good any way: number i of a lane lies so that four of them are loaded at once. Nor does it matter which step is
// which: of 16 bits, a register takes one from this row and one from four rows further down.
DEVICE int turned(int lane, int i) { return i / 4 * 32 + lane * 4 + i % 4; }
template <class T, int COUNT>
DEVICE void load_turned(unsigned (&registers)[COUNT], const float* row, int pitch, int lane) {
#pragma unroll
  for (int i = 0; i < COUNT; i += 4) {
    const auto four = load_packed<4>(row + turned(lane, i));
    if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int j = 0; j < 4; ++j) registers[i + j] = half_up(__float_as_uint(four.v[j]));
    } else {
      const auto more = load_packed<4>(row + 4 * pitch + turned(lane, i));
#pragma unroll
      for (int j = 0; j < 4; ++j) registers[i + j] = narrow_pair<T>(four.v[j], more.v[j]);
    }
  }
}

// T: float (tf32), bf16 or fp16, and Number what x and dy hold, T or float. STAGES steps are under way at once.
template <class T, class Number, int BM, int BN, int BK, int WM, int WN, int STAGES>
__global__ void __launch_bounds__(BM / WM * (BN / WN) * 32, LEAST_BLOCKS<BM / WM * (BN / WN), WM * WN>)
conv_last_weights(int64 cells, int h, int w, int x_cell, int x_group, int x_pieces, int channels, int dy_cell,
                  int dy_group, int dy_pieces, int filters, int r, int s, int stride_h, int stride_w, int pad_h,
                  int pad_w, int dilation_h, int dilation_w, int groups, unsigned plane, uint64 plane_reciprocal,
                  unsigned width, uint64 width_reciprocal, int share, const Number* __restrict__ x,
                  const Number* __restrict__ dy, float* __restrict__ target) {
  constexpr int THREADS = BM / WM * (BN / WN) * 32, TM = WM / 16, TN = WN / 8, EACH = PIECE<Number>;
  constexpr int PAD = 32 / sizeof(Number), A_PITCH = BM + PAD, B_PITCH = BN + PAD, STAGE = BK * (A_PITCH + B_PITCH);
  constexpr bool FLOATS = sizeof(Number) == 4;
  constexpr int A_ROWS = THREADS * EACH / BM, B_ROWS = THREADS * EACH / BN;  // that a thread's copies lie apart
  static_assert(BK % A_ROWS == 0 && BK % B_ROWS == 0);
  DYNAMIC_SHARED(Number, shared);
  __shared__ Window windows[STAGES][BK];
  const int group = blockIdx.z, deep = divide_up(dy_pieces * EACH, BM), columns = r * s * x_pieces * EACH;
  const int row0 = blockIdx.x % deep * BM, column0 = blockIdx.x / deep * BN;
  const int64 first_step = int64(blockIdx.y) * share;
  const int64 last_step = min(first_step + share, divide_up(cells, int64(BK)));
  const int steps = static_cast<int>(max(last_step - first_step, int64(0)));

  const int a_row = threadIdx.x / (BM / EACH), a_piece = threadIdx.x % (BM / EACH);
  const bool a_inside = row0 / EACH + a_piece < dy_pieces;
  const Number* a_source = dy + group * dy_group + row0 + a_piece * EACH;
  const int b_row = threadIdx.x / (BN / EACH), b_piece = threadIdx.x % (BN / EACH);
  const int column = column0 / EACH + b_piece, tap = column / x_pieces;
  const bool b_inside = tap < r * s;
  const int down = tap / s * dilation_h, right = tap % s * dilation_w;
  const Number* b_source = x + (int64(down) * w + right) * x_cell + group * x_group + column % x_pieces * EACH;

  auto find_windows = [&](int step, int row) {
    const int64 cell = (first_step + step) * BK + row;
    unsigned image = cell < cells ? static_cast<unsigned>(cell) : 0;
    unsigned p = Divisor{plane, plane_reciprocal}.split(image);
    const int left = static_cast<int>(Divisor{width, width_reciprocal}.split(p)) * stride_w - pad_w;
    const int top = static_cast<int>(p) * stride_h - pad_h;
    const int pixel = (static_cast<int>(image) * h + top) * w + left;
    windows[step % STAGES][row] = {pixel, cell < cells ? top : OUTSIDE, left, 0};
  };
  auto copy_step = [&](int step) {
    Number* a_tile = shared + step % STAGES * STAGE + a_row * A_PITCH + a_piece * EACH;
    Number* b_tile = shared + step % STAGES * STAGE + BK * A_PITCH + b_row * B_PITCH + b_piece * EACH;
    const int64 cell = (first_step + step) * BK + a_row;
#pragma unroll
    for (int i = 0; i < BK; i += A_ROWS) {
      const bool wanted = a_inside && cell + i < cells;
      cp_async<16>(a_tile + i * A_PITCH, wanted ? a_source + (cell + i) * dy_cell : dy, wanted);
    }
#pragma unroll
    for (int i = 0; i < BK; i += B_ROWS) {
      const Window window = windows[step % STAGES][b_row + i];
      const bool wanted = b_inside && static_cast<unsigned>(window.top + down) < static_cast<unsigned>(h) &&
                          static_cast<unsigned>(window.left + right) < static_cast<unsigned>(w);
      cp_async<16>(b_tile + i * B_PITCH, wanted ? b_source + int64(window.pixel) * x_cell : x, wanted);
    }
  };

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;
  const int warp_row = warp / (BN / WN) * WM, warp_column = warp % (BN / WN) * WN;
  float sums[TM][TN][4] = {};
  auto multiply = [&](int step) {
    const Number* a_tile = shared + step % STAGES * STAGE;
    const Number* b_tile = a_tile + BK * A_PITCH;
#pragma unroll
    for (int kk = 0; kk < BK; kk += 2 * PIECE<T>) {
      unsigned a[TM][4], b[TN][2];
      if constexpr (FLOATS) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          unsigned rows[TM * 2], some[TN];
          const int row = kk + half * PIECE<T> + q;
          load_turned<T>(rows, a_tile + row * A_PITCH + warp_row, A_PITCH, g);
          load_turned<T>(some, b_tile + row * B_PITCH + warp_column, B_PITCH, g);
#pragma unroll
          for (int i = 0; i < TM * 2; ++i) a[i / 2][half * 2 + i % 2] = rows[i];
#pragma unroll
          for (int j = 0; j < TN; ++j) b[j][half] = some[j];
        }
      } else {
#pragma unroll
        for (int i = 0; i < TM; ++i) load_a_fragment<true>(a[i], a_tile, A_PITCH, warp_row + i * 16, kk);
#pragma unroll
        for (int j = 0; j < TN; j += 2)
          load_b_fragments<true>(b[j], b[j + 1], b_tile, B_PITCH, warp_column + j * 8, kk);
      }
#pragma unroll
      for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int j = 0; j < TN; ++j) multiply_fragments<T>(sums[i][j], a[i], b[j]);
    }
  };

  for (int i = threadIdx.x; i < STAGES * BK; i += THREADS) find_windows(i / BK, i % BK);
  __syncthreads();
  run_stages<STAGES>(steps, copy_step, [&](int step) {
    if (threadIdx.x < BK) find_windows(step + STAGES, threadIdx.x);
    multiply(step);
  });

  const bool adds = gridDim.y == 1;
  if (!adds) target += (int64(blockIdx.y) * groups + group) * filters * columns;
#pragma unroll
  for (int j = 0; j < TN; ++j)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int number = column0 + warp_column + (FLOATS ? turned(2 * q + e, j) : j * 8 + 2 * q + e);
      if (number >= columns) continue;
      const int channel = number % (x_pieces * EACH), at = channel * (r * s) + number / (x_pieces * EACH);
#pragma unroll
      for (int i = 0; i < TM * 2; ++i) {
        const int row = row0 + warp_row + (FLOATS ? turned(g, i) : i * 8 + g);
        if (row >= filters) continue;
        const float sum = sums[i / 2][j][i % 2 * 2 + e];
        if (!adds)
          target[int64(row) * columns + number] = sum;
        else if (channel < channels)
          target[(int64(group) * filters + row) * channels * (r * s) + at] += sum;
      }
    }
}

// dw += the sum of the shares' (share, all filters, taps, padded channels), in their order. A thread takes one sum,
// neighbours neighbouring channels. Bound: memory; 4 bytes a share and element, and 8 an element of dw.
template <int = 0>
__global__ void __launch_bounds__(256)
add_shares(unsigned count, int shares, unsigned channels, unsigned padded, unsigned taps,
           const float* __restrict__ sums, float* __restrict__ dw) {
  for (unsigned e = blockIdx.x * 256 + threadIdx.x; e < count; e += gridDim.x * 256) {
    const unsigned channel = e % padded, tap = e / padded % taps, filter = e / padded / taps;
    if (channel >= channels) continue;
    float sum = 0;
#pragma unroll 4
    for (int i = 0; i < shares; ++i) sum += sums[int64(i) * count + e];
    dw[(filter * channels + channel) * taps + tap] += sum;
  }
}
