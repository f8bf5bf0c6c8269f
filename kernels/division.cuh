// Division of indices by numbers that are the same for a whole launch: a multiplication in place of some 20 steps.
#pragma once
#include "netc.cuh"

// `reciprocal` is 2^64 / divisor, rounded up, and 0 for a divisor of 1. With it the upper half of one product is the
// quotient of any 32-bit number. (Lemire, Kaser, Kurz, "Faster remainder by direct computation", 2019)
struct Divisor {
  unsigned divisor;
  uint64 reciprocal;

  DEVICE unsigned quotient(unsigned n) const {
    return reciprocal ? static_cast<unsigned>(__umul64hi(reciprocal, n)) : n;
  }
  // Splits n into a quotient, which takes its place, and a remainder, which is returned.
  DEVICE unsigned split(unsigned& n) const {
    const unsigned whole = quotient(n), rest = n - whole * divisor;
    n = whole;
    return rest;
  }
};
