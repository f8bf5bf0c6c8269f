// C = relu(alpha op(A) op(B) + beta C + bias) over dense row-major matrices; op(A) is m x k, op(B) k x n, C m x n.
//
// Layout: A lies as m x k, or as k x m with TRANS_A; B as k x n, or as n x k with TRANS_B; products of a batch one
// behind the other. With beta = 0 C is not read. A bias of rows or columns may be null; slope = 1 is no ReLU.
// Mapping: one block for a tile of BM x BN of C, tiles of a row of C next to each other; the k axis in steps of BK;
// blockIdx.y is the product of the batch.
// Bound: 2 m n k FLOPs; a block reads (BM + BN) k floats for BM BN results.
#include "netc.cuh"
#include "fragments.cuh"
#include "relu.cuh"
#include "stages.cuh"
#include "unrolled.cuh"

struct Tile {
  int row, column;
};
// The first row and column of C that this block computes.
template <int BM, int BN>
DEVICE Tile tile_of_block(int n) {
  const unsigned across = divide_up(n, BN);
  return {static_cast<int>(blockIdx.x / across) * BM, static_cast<int>(blockIdx.x % across) * BN};
}
// What becomes of sums before they are stored.
struct Epilogue {
  float alpha, beta;
  const float *row_bias, *column_bias;
  float slope;
  // Stores a thread's ROWS x COLUMNS sums, of the rows and columns of C that the functions give.
  template <int ROWS, int COLUMNS, class RowOf, class ColumnOf, class SumOf>
  DEVICE void store(float* c, int m, int n, const RowOf& row_of, const ColumnOf& column_of, const SumOf& sum_of) const {
    float shifts[COLUMNS];
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) shifts[j] = column_bias && column_of(j) < n ? column_bias[column_of(j)] : 0.0f;
    unrolled<ROWS>([&](int i) {
      const int row = row_of(i);
      if (row >= m) return;
      float* target = c + int64(row) * n;
      const float shift = row_bias ? row_bias[row] : 0.0f;
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) {
        const int column = column_of(j);
        if (column >= n) continue;
        float y = alpha * sum_of(i, j);
        if (beta != 0) y += beta * target[column];
        target[column] = relu(y + shift + shifts[j], slope);
      }
    });
  }
};
// This block's matrix of a batch.
template <class T>
DEVICE T* matrix_of_block(T* first, int rows, int columns) {
  return first + blockIdx.y * int64(rows) * columns;
}

// fp32 on the ordinary cores. A thread computes TM x TN results, in groups of 4 neighbouring rows and columns that lie
// apart, so that the threads of a warp read neighbouring words of shared memory. While a step is computed the next
// one's elements wait in registers.
template <int BM, int BN, int BK, int TM, int TN, bool TRANS_A, bool TRANS_B>
__global__ void __launch_bounds__(BM / TM * (BN / TN), BM == 128 ? 0 : 3)
gemm_simt(int m, int n, int k, float alpha, const float* __restrict__ a, const float* __restrict__ b, float beta,
          float* __restrict__ c, const float* __restrict__ row_bias, const float* __restrict__ column_bias,
          float slope) {
  constexpr int THREADS = BM / TM * (BN / TN), ACROSS = BN / TN, PAD = 4;
  constexpr int A_EACH = BM * BK / THREADS, B_EACH = BN * BK / THREADS;
  constexpr int ROW_GROUP = BM * 4 / TM, COLUMN_GROUP = BN * 4 / TN;
  static_assert(BM * BK % THREADS == 0 && BN * BK % THREADS == 0 && TM % 4 == 0 && TN % 4 == 0);
  __shared__ __align__(16) float a_tile[2][BK][BM + PAD];
  __shared__ __align__(16) float b_tile[2][BK][BN + PAD];
  const int thread = threadIdx.x, row = thread / ACROSS * 4, column = thread % ACROSS * 4;
  const Tile tile = tile_of_block<BM, BN>(n);
  const Epilogue epilogue{alpha, beta, row_bias, column_bias, slope};
  a = matrix_of_block(a, m, k);
  b = matrix_of_block(b, k, n);
  c = matrix_of_block(c, m, n);
  float a_next[A_EACH], b_next[B_EACH], sums[TM][TN] = {};

  // Element e of a tile: which step along k, and which row or column; neighbours in memory go to neighbouring threads.
  auto a_step = [](int e) { return TRANS_A ? e / BM : e % BK; };
  auto a_row = [](int e) { return TRANS_A ? e % BM : e / BK; };
  auto b_step = [](int e) { return TRANS_B ? e % BK : e / BN; };
  auto b_column = [](int e) { return TRANS_B ? e / BK : e % BN; };
  auto fetch = [&](int k0) {
#pragma unroll
    for (int i = 0; i < A_EACH; ++i) {
      const int e = thread + i * THREADS, kk = k0 + a_step(e), r = tile.row + a_row(e);
      a_next[i] = r < m && kk < k ? a[TRANS_A ? int64(kk) * m + r : int64(r) * k + kk] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < B_EACH; ++i) {
      const int e = thread + i * THREADS, kk = k0 + b_step(e), col = tile.column + b_column(e);
      b_next[i] = col < n && kk < k ? b[TRANS_B ? int64(col) * k + kk : int64(kk) * n + col] : 0.0f;
    }
  };
  auto keep = [&](int slot) {
#pragma unroll
    for (int i = 0; i < A_EACH; ++i)
      a_tile[slot][a_step(thread + i * THREADS)][a_row(thread + i * THREADS)] = a_next[i];
#pragma unroll
    for (int i = 0; i < B_EACH; ++i)
      b_tile[slot][b_step(thread + i * THREADS)][b_column(thread + i * THREADS)] = b_next[i];
  };
  auto multiply = [&](int slot) {
#pragma unroll
    for (int kk = 0; kk < BK; ++kk) {
      Packed<float, 4> x[TM / 4], y[TN / 4];
#pragma unroll
      for (int i = 0; i < TM / 4; ++i) x[i] = load_packed<4>(&a_tile[slot][kk][i * ROW_GROUP + row]);
#pragma unroll
      for (int j = 0; j < TN / 4; ++j) y[j] = load_packed<4>(&b_tile[slot][kk][j * COLUMN_GROUP + column]);
#pragma unroll
      for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int j = 0; j < TN; ++j) sums[i][j] = fmaf(x[i / 4].v[i % 4], y[j / 4].v[j % 4], sums[i][j]);
    }
  };

  fetch(0);
  keep(0);
  __syncthreads();
  int slot = 0;
  for (int k0 = 0; k0 < k; k0 += BK, slot ^= 1) {
    const bool more = k - k0 > BK;
    if (more) fetch(k0 + BK);
    multiply(slot);
    if (more) keep(slot ^ 1);
    __syncthreads();
  }

  epilogue.store<TM, TN>(
      c, m, n, [&](int i) { return tile.row + i / 4 * ROW_GROUP + row + i % 4; },
      [&](int j) { return tile.column + j / 4 * COLUMN_GROUP + column + j % 4; },
      [&](int i, int j) { return sums[i][j]; });
}

// A tile of ROWS x COLUMNS floats of a matrix, copied to shared memory without waiting; zeros beyond the matrix.
template <int ROWS, int COLUMNS, int PITCH, int COUNT, int THREADS>
DEVICE void copy_tile(float* shared, const float* matrix, int row0, int column0, int rows, int columns) {
  static_assert(ROWS * COLUMNS % (THREADS * COUNT) == 0);
#pragma unroll
  for (int i = 0; i < ROWS * COLUMNS / (THREADS * COUNT); ++i) {
    const int e = (i * THREADS + threadIdx.x) * COUNT, r = e / COLUMNS, col = e % COLUMNS;
    const bool inside = row0 + r < rows && column0 + col < columns;
    const float* source = inside ? matrix + int64(row0 + r) * columns + column0 + col : matrix;
    cp_async<COUNT * 4>(shared + r * PITCH + col, source, inside);
  }
}

// How a tile of an operand with K steps and SIDE rows or columns lies in shared memory. The pads let the lanes of a
// warp read a fragment without bank conflicts.
template <int SIDE, int K, bool K_IS_ROW>
struct OperandTile {
  static constexpr int rows = K_IS_ROW ? K : SIDE, columns = K_IS_ROW ? SIDE : K;
  static constexpr int pitch = columns + (K_IS_ROW ? 8 : 4), floats = rows * pitch;
  STATIC_DEVICE unsigned get(const float* tile, int side, int k) {
    return to_tf32(tile[K_IS_ROW ? k * pitch + side : side * pitch + k]);
  }
};

// tf32 on the tensor cores (sm_80). A warp computes WM x WN results from fragments of 16 x 8 x 8; STAGES tiles are
// under way at once. COUNT floats are copied at once: 4 needs rows of A and B that are multiples of 16 bytes.
template <int BM, int BN, int BK, int WM, int WN, int STAGES, bool TRANS_A, bool TRANS_B, int COUNT>
__global__ void __launch_bounds__(BM / WM * (BN / WN) * 32, BM == 128 ? 0 : 3)
gemm_tf32(int m, int n, int k, float alpha, const float* __restrict__ a, const float* __restrict__ b, float beta,
          float* __restrict__ c, const float* __restrict__ row_bias, const float* __restrict__ column_bias,
          float slope) {
  constexpr int THREADS = BM / WM * (BN / WN) * 32, TM = WM / 16, TN = WN / 8;
  using A = OperandTile<BM, BK, TRANS_A>;
  using B = OperandTile<BN, BK, !TRANS_B>;
  DYNAMIC_SHARED(float, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;
  const int warp_row = warp / (BN / WN) * WM, warp_column = warp % (BN / WN) * WN;
  const Tile tile = tile_of_block<BM, BN>(n);
  const Epilogue epilogue{alpha, beta, row_bias, column_bias, slope};
  a = matrix_of_block(a, m, k);
  b = matrix_of_block(b, k, n);
  c = matrix_of_block(c, m, n);
  float sums[TM][TN][4] = {};

  auto copy_step = [&](int step) {
    float* stage = shared + step % STAGES * (A::floats + B::floats);
    const int k0 = step * BK;
    copy_tile<A::rows, A::columns, A::pitch, COUNT, THREADS>(
        stage, a, TRANS_A ? k0 : tile.row, TRANS_A ? tile.row : k0, TRANS_A ? k : m, TRANS_A ? m : k);
    copy_tile<B::rows, B::columns, B::pitch, COUNT, THREADS>(
        stage + A::floats, b, TRANS_B ? tile.column : k0, TRANS_B ? k0 : tile.column, TRANS_B ? n : k, TRANS_B ? k : n);
  };
  auto multiply = [&](int step) {
    const float* a_tile = shared + step % STAGES * (A::floats + B::floats);
    const float* b_tile = a_tile + A::floats;
#pragma unroll
    for (int kk = 0; kk < BK; kk += 8) {
      unsigned x[TM][4], y[TN][2];
#pragma unroll
      for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e) x[i][e] = A::get(a_tile, warp_row + i * 16 + g + e % 2 * 8, kk + q + e / 2 * 4);
#pragma unroll
      for (int j = 0; j < TN; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) y[j][e] = B::get(b_tile, warp_column + j * 8 + g, kk + q + e * 4);
#pragma unroll
      for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int j = 0; j < TN; ++j) mma_m16n8k8_tf32(sums[i][j], x[i], y[j], sums[i][j]);
    }
  };

  const int steps = divide_up(k, BK);
  run_stages<STAGES>(steps, copy_step, multiply);

  epilogue.store<TM * 2, TN * 2>(
      c, m, n, [&](int i) { return tile.row + warp_row + i * 8 + g; },
      [&](int j) { return tile.column + warp_column + j / 2 * 8 + 2 * q + j % 2; },
      [&](int i, int j) { return sums[i / 2][j / 2][i % 2 * 2 + j % 2]; });
}

// A tile of an operand in 16 bits: fetched from memory as floats, kept in shared memory as T. Its pitch is an odd
// number of 16 bytes, which keeps the rows that ldmatrix reads in different banks.
template <class T, int SIDE, int K, bool K_IS_ROW, int THREADS>
struct NarrowTile {
  static constexpr int rows = K_IS_ROW ? K : SIDE, columns = K_IS_ROW ? SIDE : K, pitch = columns + 8;
  static constexpr int QUADS = rows * columns / (4 * THREADS);
  static_assert(rows * columns % (4 * THREADS) == 0 && pitch / 8 % 2 == 1);
  Packed<float, 4> next[QUADS];

  // `packed`: every row begins at a multiple of 16 bytes and is a multiple of them.
  DEVICE void fetch(const float* matrix, int row0, int column0, int row_count, int column_count, bool packed) {
#pragma unroll
    for (int i = 0; i < QUADS; ++i) {
      const int e = (i * THREADS + threadIdx.x) * 4, r = row0 + e / columns, col = column0 + e % columns;
      const float* source = matrix + int64(r) * column_count + col;
      const int left = r < row_count ? column_count - col : 0;
      if (packed) {
        next[i] = left > 0 ? load_packed<4>(source) : Packed<float, 4>{};
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) next[i].v[j] = j < left ? source[j] : 0.0f;
      }
    }
  }
  DEVICE void keep(T* tile) const {
#pragma unroll
    for (int i = 0; i < QUADS; ++i) {
      const int e = (i * THREADS + threadIdx.x) * 4;
      const Packed<unsigned, 2> both = {
          {narrow_pair<T>(next[i].v[0], next[i].v[1]), narrow_pair<T>(next[i].v[2], next[i].v[3])}};
      store_packed<2>(reinterpret_cast<unsigned*>(tile + e / columns * pitch + e % columns), both);
    }
  }
};

// 16 bits (T is bf16 or fp16) on the tensor cores (sm_80), of fp32 matrices: their numbers are rounded on the way to
// shared memory, sums stay fp32. A warp computes WM x WN results from fragments of 16 x 8 x 16; while a step is
// computed the next one's numbers wait in registers.
template <class T, int BM, int BN, int BK, int WM, int WN, bool TRANS_A, bool TRANS_B>
__global__ void __launch_bounds__(BM / WM * (BN / WN) * 32, BM == 128 ? 0 : 3)
gemm_narrow(int m, int n, int k, float alpha, const float* __restrict__ a, const float* __restrict__ b, float beta,
            float* __restrict__ c, const float* __restrict__ row_bias, const float* __restrict__ column_bias,
            float slope, bool a_packed, bool b_packed) {
  constexpr int THREADS = BM / WM * (BN / WN) * 32, TM = WM / 16, TN = WN / 8;
  using A = NarrowTile<T, BM, BK, TRANS_A, THREADS>;
  using B = NarrowTile<T, BN, BK, !TRANS_B, THREADS>;
  __shared__ __align__(16) T a_tile[2][A::rows * A::pitch];
  __shared__ __align__(16) T b_tile[2][B::rows * B::pitch];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;
  const int warp_row = warp / (BN / WN) * WM, warp_column = warp % (BN / WN) * WN;
  const Tile tile = tile_of_block<BM, BN>(n);
  const Epilogue epilogue{alpha, beta, row_bias, column_bias, slope};
  a = matrix_of_block(a, m, k);
  b = matrix_of_block(b, k, n);
  c = matrix_of_block(c, m, n);
  A a_next;
  B b_next;
  float sums[TM][TN][4] = {};

  auto fetch = [&](int k0) {
    a_next.fetch(a, TRANS_A ? k0 : tile.row, TRANS_A ? tile.row : k0, TRANS_A ? k : m, TRANS_A ? m : k, a_packed);
    b_next.fetch(b, TRANS_B ? tile.column : k0, TRANS_B ? k0 : tile.column, TRANS_B ? n : k, TRANS_B ? k : n, b_packed);
  };
  auto multiply = [&](int slot) {
#pragma unroll
    for (int kk = 0; kk < BK; kk += 16) {
      unsigned x[4], y[TN][2];
#pragma unroll
      for (int j = 0; j < TN; j += 2)
        load_b_fragments<!TRANS_B>(y[j], y[j + 1], b_tile[slot], B::pitch, warp_column + j * 8, kk);
#pragma unroll
      for (int i = 0; i < TM; ++i) {
        load_a_fragment<TRANS_A>(x, a_tile[slot], A::pitch, warp_row + i * 16, kk);
#pragma unroll
        for (int j = 0; j < TN; ++j) mma_m16n8k16<T>(sums[i][j], x, y[j]);
      }
    }
  };

  fetch(0);
  a_next.keep(a_tile[0]);
  b_next.keep(b_tile[0]);
  __syncthreads();
  int slot = 0;
  for (int k0 = 0; k0 < k; k0 += BK, slot ^= 1) {
    const bool more = k - k0 > BK;
    if (more) fetch(k0 + BK);
    multiply(slot);
    if (more) {
      a_next.keep(a_tile[slot ^ 1]);
      b_next.keep(b_tile[slot ^ 1]);
    }
    __syncthreads();
  }

  epilogue.store<TM * 2, TN * 2>(
      c, m, n, [&](int i) { return tile.row + warp_row + i * 8 + g; },
      [&](int j) { return tile.column + warp_column + j / 2 * 8 + 2 * q + j % 2; },
      [&](int i, int j) { return sums[i / 2][j / 2][i % 2 * 2 + j % 2]; });
}
