// Loops that are written out before the compiler sees them.
#pragma once
#include "netc.cuh"

// part(0), ..., part(COUNT - 1). A loop that `#pragma unroll` unrolls may be copied before that for each outcome of a
// condition that is the same in all its rounds (a bias or none, a column inside or not). What is written out here is
// not: for the many sums that a thread stores that makes less code, and kernels that compile in about half the time.
template <int COUNT, class Part>
DEVICE void unrolled(const Part& part) {
  if constexpr (COUNT > 1) unrolled<COUNT - 1>(part);
  part(COUNT - 1);
}
