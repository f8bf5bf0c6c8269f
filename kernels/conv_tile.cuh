// What the kernels of conv.cu and conv_weights.cu share: tiles of products, summed in registers.
//
// A block computes BM x BN results, BK terms at a time from shared memory. A thread computes TM x TN of them, in groups
// of 4 neighbours that lie apart, so that the lanes of a warp read neighbouring words of shared memory.
#pragma once
#include "netc.cuh"

struct Images {
  int channels, rows, columns;
  DEVICE int64 floats() const { return int64(channels) * rows * columns; }
  DEVICE int plane() const { return rows * columns; }
};

// A thread's part of a tile: BK terms of BM rows and of BN columns, multiplied and added up. The lanes of a warp are
// dealt out over 4 x 8 places, which needs the fewest words of shared memory for their products.
template <int BM, int BN, int BK, int TM, int TN>
struct TileSums {
  static constexpr int ROWS = TM, COLUMNS = TN, DOWN = BM / TM, ACROSS = BN / TN, THREADS = DOWN * ACROSS, PAD = 4;
  static constexpr int ROW_GROUP = DOWN * 4, COLUMN_GROUP = ACROSS * 4;
  static_assert(DOWN % 4 == 0 && ACROSS % 8 == 0 && TM % 4 == 0 && TN % 4 == 0);
  using A = float[BK][BM + PAD];
  using B = float[BK][BN + PAD];
  float sums[TM][TN] = {};

  STATIC_DEVICE int row(int i) {
    return i / 4 * ROW_GROUP + (threadIdx.x / 32 / (ACROSS / 8) * 4 + threadIdx.x % 32 / 8) * 4 + i % 4;
  }
  STATIC_DEVICE int row_step(int i) { return i % 4 ? 1 : ROW_GROUP - 3; }  // from row i - 1
  STATIC_DEVICE int column(int j) {
    return j / 4 * COLUMN_GROUP + (threadIdx.x / 32 % (ACROSS / 8) * 8 + threadIdx.x % 8) * 4 + j % 4;
  }

  DEVICE void multiply(const A& a, const B& b) {
#pragma unroll
    for (int kk = 0; kk < BK; ++kk) {
      Packed<float, 4> x[TM / 4], y[TN / 4];
#pragma unroll
      for (int i = 0; i < TM / 4; ++i) x[i] = load_packed<4>(&a[kk][row(4 * i)]);
#pragma unroll
      for (int j = 0; j < TN / 4; ++j) y[j] = load_packed<4>(&b[kk][column(4 * j)]);
#pragma unroll
      for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int j = 0; j < TN; ++j) sums[i][j] = fmaf(x[i / 4].v[i % 4], y[j / 4].v[j % 4], sums[i][j]);
    }
  }
};
