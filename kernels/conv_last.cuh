// What convolutions of images with channels last share: how numbers lie in 16-byte pieces, in memory and in the tiles
// of a block.
//
// A piece is 4 floats or 8 numbers of 16 bits: neighbouring channels of one cell. Where a group has no whole number of
// pieces, the packed images and filters have zeros behind its last channel.
#pragma once
#include "netc.cuh"
#include "fragments.cuh"
#include "stages.cuh"

constexpr int PIECE_BYTES = 16;
template <class T>
constexpr int PIECE = PIECE_BYTES / sizeof(T);  // numbers

// How many blocks of so many warps should fit on a processor, by the sums that a warp holds; one that `rounds` needs
// more registers besides.
template <int WARPS, int SUMS, bool rounds = false>
constexpr int LEAST_BLOCKS = (SUMS == 64 * 64 || (SUMS == 64 * 32 && rounds) ? 8 : SUMS == 64 * 32 ? 12 : 16) / WARPS;

// A float as the tensor cores take it: they drop the lower bits of a float, which half a unit before makes rounding.
DEVICE unsigned half_up(unsigned bits) { return (bits & 0x7f800000u) == 0x7f800000u ? bits : bits + 0x1000u; }

// A fragment of a product: sums += x y, where floats are rounded before.
template <class T>
DEVICE void multiply_fragments(float (&sums)[4], const unsigned (&x)[4], const unsigned (&y)[2]) {
  if constexpr (sizeof(T) == 4)
    mma_m16n8k8_tf32(sums, x, y, sums);
  else
    mma_m16n8k16<T>(sums, x, y);
}

// A float as a number of a packed array.
template <class T>
DEVICE T packed_number(float x) {
  if constexpr (sizeof(T) == 4)
    return __uint_as_float(to_tf32(x));
  else
    return from_float<T>(x);
}
// Numbers as a piece of a packed array.
template <class T>
DEVICE void store_piece(T* target, const float (&numbers)[PIECE<T>]) {
  Packed<unsigned, 4> piece;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4)
      piece.v[i] = to_tf32(numbers[i]);
    else
      piece.v[i] = narrow_pair<T>(numbers[2 * i], numbers[2 * i + 1]);
  }
  store_packed<4>(reinterpret_cast<unsigned*>(target), piece);
}
