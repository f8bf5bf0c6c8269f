// Winograd's minimal filtering for 3 x 3 filters: M x M cells of the output from (M + 2) x (M + 2) of the input, with
// one multiplication for each cell of the latter. (Lavin and Gray, "Fast algorithms for convolutional neural networks",
// 2016; points 0, 1, -1 and infinity for M = 2; 0, +-5/8, +-3/2 and infinity for M = 4, which round four times less than
// the usual 0, +-1, +-2.)
#pragma once
#include "netc.cuh"
#include "epilogue.cuh"

// The transforms of one row or column, in place; what a shorter result leaves over is not used.
template <int M>
struct Winograd;
template <>
struct Winograd<2> {
  STATIC_DEVICE void input(float (&d)[4]) {
    const float a = d[0] - d[2], b = d[1] + d[2], c = d[2] - d[1], e = d[1] - d[3];
    d[0] = a, d[1] = b, d[2] = c, d[3] = e;
  }
  STATIC_DEVICE void filter(float (&g)[4]) {  // 3 numbers to 4
    const float even = 0.5f * (g[0] + g[2]), odd = 0.5f * g[1], last = g[2];
    g[1] = even + odd, g[2] = even - odd, g[3] = last;
  }
  STATIC_DEVICE void output(float (&m)[4]) {  // 4 numbers to 2
    const float a = m[0] + m[1] + m[2], b = m[1] - m[2] - m[3];
    m[0] = a, m[1] = b;
  }
};
template <>
struct Winograd<4> {
  static constexpr float P = 0.625f, Q = 1.5f, P2 = P * P, Q2 = Q * Q, SUM = P2 + Q2, PRODUCT = P2 * Q2;
  STATIC_DEVICE void input(float (&d)[6]) {
    const float a = d[4] - Q2 * d[2], b = P * (d[3] - Q2 * d[1]), c = d[4] - P2 * d[2], e = Q * (d[3] - P2 * d[1]);
    const float first = PRODUCT * d[0] - SUM * d[2] + d[4], last = PRODUCT * d[1] - SUM * d[3] + d[5];
    d[0] = first, d[1] = a + b, d[2] = a - b, d[3] = c + e, d[4] = c - e, d[5] = last;
  }
  STATIC_DEVICE void filter(float (&g)[6]) {  // 3 numbers to 6
    constexpr float NEAR = 1 / (2 * P2 * (P2 - Q2)), FAR = 1 / (2 * Q2 * (Q2 - P2));
    const float a = NEAR * (g[0] + P2 * g[2]), b = NEAR * P * g[1], c = FAR * (g[0] + Q2 * g[2]), e = FAR * Q * g[1];
    const float last = g[2];
    g[0] = g[0] * (1 / PRODUCT), g[1] = a + b, g[2] = a - b, g[3] = c + e, g[4] = c - e, g[5] = last;
  }
  STATIC_DEVICE void output(float (&m)[6]) {  // 6 numbers to 4
    const float a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], e = m[3] - m[4];
    m[0] = m[0] + a + c, m[1] = P * b + Q * e, m[2] = P2 * a + Q2 * c, m[3] = P * P2 * b + Q * Q2 * e + m[5];
  }
};

// A transform of rows and then of columns of a square of SIDE numbers a side, the first ROWS rows of which hold any.
template <int SIDE, int ROWS, class Transform>
DEVICE void transform_square(float (&square)[SIDE][SIDE], Transform transform) {
#pragma unroll
  for (int i = 0; i < ROWS; ++i) transform(square[i]);
#pragma unroll
  for (int j = 0; j < SIDE; ++j) {
    float column[SIDE];
#pragma unroll
    for (int i = 0; i < SIDE; ++i) column[i] = square[i][j];
    transform(column);
#pragma unroll
    for (int i = 0; i < SIDE; ++i) square[i][j] = column[i];
  }
}

// The tile of the output that a number stands for: its image, and its first cell.
struct OutputTile {
  int image, y, x;
};
template <int M>
DEVICE OutputTile output_tile(int number, int down, int across) {
  return {number / (down * across), number / across % down * M, number % across * M};
}

// Reads the square of input cells of a tile; cells outside the plane are zeros.
template <int SIDE>
DEVICE void read_square(float (&square)[SIDE][SIDE], const float* plane, int h, int w, int top, int left, bool wanted) {
#pragma unroll
  for (int i = 0; i < SIDE; ++i)
#pragma unroll
    for (int j = 0; j < SIDE; ++j) {
      const bool inside = wanted && static_cast<unsigned>(top + i) < static_cast<unsigned>(h) &&
                          static_cast<unsigned>(left + j) < static_cast<unsigned>(w);
      square[i][j] = inside ? plane[int64(top + i) * w + left + j] : 0.0f;
    }
}

// Stores M x M results, those that lie in the plane, whose first is number `plane` of y.
template <int M, int SIDE>
DEVICE void store_square(const float (&square)[SIDE][SIDE], float* y, int64 plane, int p, int q, const OutputTile& tile,
                         const Line& line, const Ending& ending) {
  const bool packed = q % M == 0 && plane % M == 0 && ending.is_packed<M>(y);
#pragma unroll
  for (int i = 0; i < M; ++i) {
    if (tile.y + i >= p) return;
    const int64 at = plane + int64(tile.y + i) * q + tile.x;
    Packed<float, M> values;
#pragma unroll
    for (int j = 0; j < M; ++j) values.v[j] = line.at(square[i][j]);
    if (packed) {
      ending.store(y, at, values);
    } else {
#pragma unroll
      for (int j = 0; j < M; ++j)
        if (tile.x + j < q) ending.store<1>(y, at + j, {{values.v[j]}});
    }
  }
}
