// What softmax and the losses of class scores share: how threads meet the classes of a place, and sums of exponents.
//
// Scores are (outer, classes, inner), row-major; a place is one of outer x inner, its classes lie `inner` apart. LANES
// threads share a place: 1 (many places, neighbours in memory), a warp or a block of 256 (rows of classes).
#pragma once
#include "division.cuh"

constexpr int THREADS = 256;
constexpr float LOWEST = -3.402823466e+38f;

struct Place {
  unsigned number;
  int64 first;  // where its class 0 lies
};
#define SCORES unsigned places, int classes, int inner, uint64 inner_reciprocal

// Calls body(place) for every place that this thread has a share in; all lanes of a place come along.
template <int LANES, class Body>
DEVICE void for_each_place(SCORES, const Body& body) {
  constexpr int EACH = THREADS / LANES;  // places of a block at a time
  const Divisor across = {static_cast<unsigned>(inner), inner_reciprocal};
  for (unsigned number = blockIdx.x * EACH + threadIdx.x / LANES; number < places; number += gridDim.x * EACH) {
    unsigned outer = number;
    const unsigned rest = across.split(outer);
    body(Place{number, int64(outer) * classes * inner + rest});
  }
}
template <int LANES>
DEVICE int lane_of_place() {
  return threadIdx.x % LANES;
}

// The sum of a value over the lanes of a place; all of them get it.
template <int LANES>
DEVICE float sum_of_place(float value) {
  if constexpr (LANES > 1) value = warp_sum(value);
  if constexpr (LANES > 32) {
    __shared__ float sums[LANES / 32], whole;
    const int lane = threadIdx.x % 32;
    if (lane == 0) sums[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x < 32) {
      value = warp_sum(lane < LANES / 32 ? sums[lane] : 0.0f);
      if (lane == 0) whole = value;
    }
    __syncthreads();
    value = whole;
    __syncthreads();  // it may be written again by a second call
  }
  return value;
}

// The largest of some scores and the sum of exp(score - largest), in one pass. Starting from the lowest number, a -inf
// counts as 0, and nothing but -inf gives 0 / 0, as taking the maximum out first does.
struct Exponents {
  float largest = LOWEST, sum = 0;
  DEVICE void take(float x) {
    if (x > largest) {
      sum *= expf(largest - x);
      largest = x;
    }
    sum += expf(x - largest);
  }
  DEVICE void merge(float other_largest, float other_sum) {
    const float both = fmaxf(largest, other_largest);
    sum = sum * expf(largest - both) + other_sum * expf(other_largest - both);
    largest = both;
  }
  DEVICE float probability(float x) const { return expf(x - largest) / sum; }
};

// Over all classes of a place; all of its lanes get it.
template <int LANES>
DEVICE Exponents exponents_of_place(const float* x, int classes, int inner) {
  Exponents found;
  for (int k = lane_of_place<LANES>(); k < classes; k += LANES) found.take(x[int64(k) * inner]);
  if constexpr (LANES > 1) {
#pragma unroll
    for (int bits = 16; bits > 0; bits >>= 1) {
      const float largest = __shfl_xor_sync(FULL_WARP, found.largest, bits);
      found.merge(largest, __shfl_xor_sync(FULL_WARP, found.sum, bits));
    }
  }
  if constexpr (LANES > 32) {
    __shared__ float largest[LANES / 32], sums[LANES / 32];
    if (threadIdx.x % 32 == 0) largest[threadIdx.x / 32] = found.largest, sums[threadIdx.x / 32] = found.sum;
    __syncthreads();
    found = {};
    for (int warp = 0; warp < LANES / 32; ++warp) found.merge(largest[warp], sums[warp]);
    __syncthreads();
  }
  return found;
}
