// The random streams of layer/random.py: the same numbers on every backend, and again after a resume.
#pragma once
#include "netc.cuh"

constexpr int DRAWN = 8;  // numbers of one call

// Numbers 8 `block` to 8 `block` + 7 of a draw, as 32 random bits each. NumPy counts up before it draws, and takes the
// lower half of a word first.
DEVICE void draw_bits(unsigned (&bits)[DRAWN], uint64 seed, uint64 name, uint64 draw, uint64 block) {
  const Philox<uint64> drawn = philox(Philox<uint64>{{block + 1, draw, 0, 0}}, seed, name);
#pragma unroll
  for (int i = 0; i < DRAWN; ++i) bits[i] = static_cast<unsigned>(drawn.v[i / 2] >> (i % 2 * 32));
}

// Number i of a draw. The words are halved bit by bit of i: an index would take them through memory.
DEVICE unsigned drawn_bits(uint64 seed, uint64 name, uint64 draw, uint64 i) {
  unsigned bits[DRAWN];
  draw_bits(bits, seed, name, draw, i / DRAWN);
#pragma unroll
  for (int half = DRAWN / 2; half > 0; half /= 2)
#pragma unroll
    for (int j = 0; j < half; ++j) bits[j] = i & half ? bits[j + half] : bits[j];
  return bits[0];
}
