// Convolution on tensor cores, backward to the filters: dw[k][(c, r, s)] += sum over cells of dy[k] x[(c, r, s)].
//
// Layout: x (N, C, H, W), dy (N, K, P, Q), dw (K, C / group, R, S), fp32. The sum runs over the cells (n, p, q).
// Mapping: one block for BM filters x BN of (c, r, s) and a share of the cells; blockIdx.y is the share, blockIdx.z
// the group. With several shares each leaves its sums in (share, dw's elements), to be added up in their order.
// Bound: 2 N K P Q C R S FLOPs; a block reads BM + BN floats for 2 BM BN FLOPs, neighbouring cells side by side.
#include "netc.cuh"
#include "division.cuh"
#include "fragments.cuh"
#include "stages.cuh"
#include "unrolled.cuh"

// One of dw's columns: where its window's cell lies from a window's beginning; far outside where there is no column.
struct alignas(16) Column {
  int offset, down, right, unused;
};
constexpr int OUTSIDE = -(1 << 29);

struct Problem {
  int k, c, h, w, p, q, stride_h, stride_w, pad_h, pad_w, rows, columns, groups;
  Divisor plane, width;  // P Q and Q
  int64 cells;
};

// The cell of dy and of a window that a thread copies in a step.
struct Cell {
  const float *dy, *x;  // the cell and the window's beginning, in the first filter and channel of the group
  int top, left;
  bool inside;
  DEVICE Cell(const Problem& task, const float* first_x, const float* first_dy, int64 cell) {
    inside = cell < task.cells;
    unsigned image = inside ? static_cast<unsigned>(cell) : 0;
    const unsigned at = task.plane.split(image);
    unsigned row = at;
    const unsigned column = task.width.split(row);
    dy = first_dy + (int64(image) * task.k + blockIdx.z * task.rows) * (task.p * task.q) + at;
    top = static_cast<int>(row) * task.stride_h - task.pad_h;
    left = static_cast<int>(column) * task.stride_w - task.pad_w;
    x = first_x + (int64(image) * task.c + blockIdx.z * (task.c / task.groups)) * (task.h * task.w) +
        int64(top) * task.w + left;
  }
  DEVICE bool meets(const Problem& task, const Column& column) const {
    return inside && static_cast<unsigned>(top + column.down) < static_cast<unsigned>(task.h) &&
           static_cast<unsigned>(left + column.right) < static_cast<unsigned>(task.w);
  }
};

DEVICE Column column_of(const Problem& task, int number, int r, int s, int dilation_h, int dilation_w) {
  if (number >= task.columns) return {0, OUTSIDE, OUTSIDE, 0};
  const int channel = number / (r * s), tap = number % (r * s);
  const int down = tap / s * dilation_h, right = tap % s * dilation_w;
  return {channel * task.h * task.w + down * task.w + right, down, right, 0};
}

// Adds a warp's sums to dw where one block has summed over all cells; else they are the share's.
template <int TM, int TN>
DEVICE void store_sums(const float (&sums)[TM][TN][4], const Problem& task, int row0, int column0, float* target) {
  const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  const bool adds = gridDim.y == 1;
  target += (int64(blockIdx.y) * task.groups + blockIdx.z) * task.rows * task.columns;
  unrolled<TM * 2>([&](int i) {
    const int row = row0 + i * 8 + g;
    if (row >= task.rows) return;
    float* to = target + int64(row) * task.columns;
#pragma unroll
    for (int j = 0; j < TN * 2; ++j) {
      const int column = column0 + j / 2 * 8 + 2 * q + j % 2;
      if (column >= task.columns) continue;
      const float sum = sums[i / 2][j / 2][i % 2 * 2 + j % 2];
      to[column] = adds ? to[column] + sum : sum;
    }
  });
}

#define PARAMETERS                                                                                                \
  int64 cells, int c, int h, int w, int k, int r, int s, int p, int q, int stride_h, int stride_w, int pad_h,      \
      int pad_w, int dilation_h, int dilation_w, int groups, unsigned plane, uint64 plane_reciprocal,              \
      unsigned width, uint64 width_reciprocal, int share, const float *__restrict__ x,                             \
      const float *__restrict__ dy, float *__restrict__ target
#define MAKE_PROBLEM                                                                                              \
  const Problem task {                                                                                             \
    k, c, h, w, p, q, stride_h, stride_w, pad_h, pad_w, k / groups, c / groups * r * s, groups,                    \
        {plane, plane_reciprocal}, {width, width_reciprocal}, cells                                                \
  }

// tf32. STAGES steps of BK cells are under way at once; a thread copies one cell's numbers.
template <int BM, int BN, int BK, int WM, int WN, int STAGES>
__global__ void __launch_bounds__(BM / WM * (BN / WN) * 32, BM == 128 ? 2 : 4) conv_weights_tf32(PARAMETERS) {
  constexpr int THREADS = BM / WM * (BN / WN) * 32, TM = WM / 16, TN = WN / 8;
  constexpr int PITCH = BK + 4, STAGE = (BM + BN) * PITCH, DOWN = THREADS / BK;
  static_assert(THREADS % BK == 0 && BM % DOWN == 0 && BN % DOWN == 0);
  DYNAMIC_SHARED(float, shared);
  __shared__ Column columns[BN];
  MAKE_PROBLEM;
  const int warp = threadIdx.x / 32, down = divide_up(task.rows, BM);
  const int warp_row = warp / (BN / WN) * WM, warp_column = warp % (BN / WN) * WN;
  const int row0 = blockIdx.x % down * BM, column0 = blockIdx.x / down * BN;
  const int64 first_step = int64(blockIdx.y) * share;
  const int64 last_step = min(first_step + share, divide_up(cells, int64(BK)));
  const int steps = static_cast<int>(max(last_step - first_step, int64(0)));
  const int mine = threadIdx.x % BK, first_row = threadIdx.x / BK;
  float sums[TM][TN][4] = {};

  auto copy_step = [&](int step) {
    float* tile = shared + step % STAGES * STAGE + first_row * PITCH + mine;
    const Cell cell(task, x, dy, (first_step + step) * BK + mine);
#pragma unroll
    for (int i = 0; i < BM / DOWN; ++i) {
      const int row = row0 + first_row + i * DOWN;
      const bool wanted = cell.inside && row < task.rows;
      cp_async<4>(tile + i * DOWN * PITCH, wanted ? cell.dy + int64(row) * (p * q) : dy, wanted);
    }
#pragma unroll
    for (int i = 0; i < BN / DOWN; ++i) {
      const Column column = columns[first_row + i * DOWN];
      const bool wanted = cell.meets(task, column);
      cp_async<4>(tile + (BM + i * DOWN) * PITCH, wanted ? cell.x + column.offset : x, wanted);
    }
  };
  auto multiply = [&](int step) {
    const float* a_tile = shared + step % STAGES * STAGE;
    const float* b_tile = a_tile + BM * PITCH;
#pragma unroll
    for (int kk = 0; kk < BK; kk += 8) {
      unsigned a[TM][4], b[TN][2];
#pragma unroll
      for (int i = 0; i < TM; ++i) load_a_fragment<false>(a[i], a_tile, PITCH, warp_row + i * 16, kk);
#pragma unroll
      for (int j = 0; j < TN; j += 2)
        load_b_fragments<false>(b[j], b[j + 1], b_tile, PITCH, warp_column + j * 8, kk);
#pragma unroll
      for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e) a[i][e] = to_tf32(__uint_as_float(a[i][e]));
#pragma unroll
      for (int j = 0; j < TN; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) b[j][e] = to_tf32(__uint_as_float(b[j][e]));
#pragma unroll
      for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int j = 0; j < TN; ++j) mma_m16n8k8_tf32(sums[i][j], a[i], b[j], sums[i][j]);
    }
  };

  for (int i = threadIdx.x; i < BN; i += THREADS)
    columns[i] = column_of(task, column0 + i, r, s, dilation_h, dilation_w);
  __syncthreads();
  run_stages<STAGES>(steps, copy_step, multiply);
  store_sums(sums, task, row0 + warp_row, column0 + warp_column, target);
}

// 16 bits (T is bf16 or fp16). A thread takes two neighbouring cells' numbers; while a step is computed the next one's
// wait in registers.
template <class T, int BM, int BN, int BK, int WM, int WN>
__global__ void __launch_bounds__(BM / WM * (BN / WN) * 32) conv_weights_narrow(PARAMETERS) {
  constexpr int THREADS = BM / WM * (BN / WN) * 32, TM = WM / 16, TN = WN / 8;
  constexpr int PITCH = BK + 8, STAGE = (BM + BN) * PITCH, DOWN = THREADS / (BK / 2);
  static_assert(THREADS % (BK / 2) == 0 && BM % DOWN == 0 && BN % DOWN == 0);
  __shared__ __align__(16) T shared[2 * STAGE];
  __shared__ Column columns[BN];
  MAKE_PROBLEM;
  const int warp = threadIdx.x / 32, down = divide_up(task.rows, BM);
  const int warp_row = warp / (BN / WN) * WM, warp_column = warp % (BN / WN) * WN;
  const int row0 = blockIdx.x % down * BM, column0 = blockIdx.x / down * BN;
  const int64 first_step = int64(blockIdx.y) * share;
  const int64 last_step = min(first_step + share, divide_up(cells, int64(BK)));
  const int steps = static_cast<int>(max(last_step - first_step, int64(0)));
  const int mine = threadIdx.x % (BK / 2) * 2, first_row = threadIdx.x / (BK / 2);
  Packed<float, 2> a_next[BM / DOWN], b_next[BN / DOWN];
  float sums[TM][TN][4] = {};

  auto fetch = [&](int step) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const Cell cell(task, x, dy, (first_step + step) * BK + mine + e);
      const float* source = cell.dy + int64(row0 + first_row) * plane;
      const int count = cell.inside ? divide_up(task.rows - row0 - first_row, DOWN) : 0;
#pragma unroll
      for (int i = 0; i < BM / DOWN; ++i) {
        a_next[i].v[e] = i < count ? *source : 0.0f;
        source += DOWN * plane;
      }
#pragma unroll
      for (int i = 0; i < BN / DOWN; ++i) {
        const Column column = columns[first_row + i * DOWN];
        b_next[i].v[e] = cell.meets(task, column) ? cell.x[column.offset] : 0.0f;
      }
    }
  };
  auto keep = [&](int step) {
    unsigned* tile = reinterpret_cast<unsigned*>(shared + step % 2 * STAGE + first_row * PITCH + mine);
#pragma unroll
    for (int i = 0; i < BM / DOWN; ++i) tile[i * DOWN * PITCH / 2] = narrow_pair<T>(a_next[i].v[0], a_next[i].v[1]);
#pragma unroll
    for (int i = 0; i < BN / DOWN; ++i)
      tile[(BM + i * DOWN) * PITCH / 2] = narrow_pair<T>(b_next[i].v[0], b_next[i].v[1]);
  };
  auto multiply = [&](int step) {
    const T* a_tile = shared + step % 2 * STAGE;
    const T* b_tile = a_tile + BM * PITCH;
#pragma unroll
    for (int kk = 0; kk < BK; kk += 16) {
      unsigned a[4], b[TN][2];
#pragma unroll
      for (int j = 0; j < TN; j += 2)
        load_b_fragments<false>(b[j], b[j + 1], b_tile, PITCH, warp_column + j * 8, kk);
#pragma unroll
      for (int i = 0; i < TM; ++i) {
        load_a_fragment<false>(a, a_tile, PITCH, warp_row + i * 16, kk);
#pragma unroll
        for (int j = 0; j < TN; ++j) mma_m16n8k16<T>(sums[i][j], a, b[j]);
      }
    }
  };

  for (int i = threadIdx.x; i < BN; i += THREADS)
    columns[i] = column_of(task, column0 + i, r, s, dilation_h, dilation_w);
  __syncthreads();
  if (steps > 0) {
    fetch(0);
    keep(0);
  }
  __syncthreads();
  for (int step = 0; step < steps; ++step) {
    const bool more = step + 1 < steps;
    if (more) fetch(step + 1);
    multiply(step);
    if (more) keep(step + 1);
    __syncthreads();
  }
  store_sums(sums, task, row0 + warp_row, column0 + warp_column, target);
}
