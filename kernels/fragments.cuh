// Operands of matrix products on tensor cores, from shared memory into a warp's registers, as mma.cuh deals them out.
//
// A tile of an operand lies in one of two ways: k along its rows (a row of A, a column of B to each row of the tile),
// or side by side (K_IS_ROW: a step along k to each row), which ldmatrix knows only for 16 bits. Rows begin at
// multiples of 16 bytes. A fragment has 8 steps along k for floats, 16 for numbers of 16 bits.
#pragma once

// D += A B for numbers of 16 bits.
template <class T>
DEVICE void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  if constexpr (T::IS_BF16)
    mma_m16n8k16_bf16(d, a, b, d);
  else
    mma_m16n8k16_fp16(d, a, b, d);
}

// The fragment of A whose first row is row0 and whose first step is k0.
template <bool K_IS_ROW, class T>
DEVICE void load_a_fragment(unsigned (&a)[4], const T* tile, int pitch, int row0, int k0) {
  constexpr int PER_ROW = 16 / sizeof(T);
  const int lane = threadIdx.x % 32;
  if constexpr (K_IS_ROW) {
    static_assert(sizeof(T) == 2, "16 bits");
    ldmatrix<4, true>(a, tile + (k0 + lane % 8 + lane / 16 * 8) * pitch + row0 + lane / 8 % 2 * 8);
  } else {
    ldmatrix<4, false>(a, tile + (row0 + lane % 16) * pitch + k0 + lane / 16 * PER_ROW);
  }
}

// The fragment of B whose first column is column0 and whose first step is k0, and the one 8 columns further on.
template <bool K_IS_ROW, class T>
DEVICE void load_b_fragments(unsigned (&b)[2], unsigned (&next_b)[2], const T* tile, int pitch, int column0, int k0) {
  constexpr int PER_ROW = 16 / sizeof(T);
  const int lane = threadIdx.x % 32;
  unsigned r[4];
  if constexpr (K_IS_ROW) {
    static_assert(sizeof(T) == 2, "16 bits");
    ldmatrix<4, true>(r, tile + (k0 + lane % 16) * pitch + column0 + lane / 16 * 8);
  } else {
    ldmatrix<4, false>(r, tile + (column0 + lane % 8 + lane / 16 * 8) * pitch + k0 + lane / 8 % 2 * PER_ROW);
  }
  b[0] = r[0];
  b[1] = r[1];
  next_b[0] = r[2];
  next_b[1] = r[3];
}
