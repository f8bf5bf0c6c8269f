// Count, mean and sum of squared distances from it: of what a thread takes, of parts that are merged.
#pragma once
#include "netc.cuh"

// A thread takes its values as distances from its first one, so that nothing cancels; two such sums are merged as by
// Chan, Golub and LeVeque ("Updating formulae and a pairwise algorithm for computing sample variances", 1979).
struct Moments {
  static constexpr int NUMBERS = 3;
  static constexpr bool READS_DY = false;
  float count = 0, mean = 0, squares = 0;  // before `close`: of the distances from `first`, their sum in `mean`
  float first = 0;
  DEVICE void take(float x, float) {
    if (count == 0) first = x;
    const float distance = x - first;
    count += 1;
    mean += distance;
    squares = fmaf(distance, distance, squares);
  }
  DEVICE void close() {
    const float average = mean / fmaxf(count, 1.0f);
    squares -= mean * average;
    mean = first + average;
  }
  DEVICE void merge(float other_count, float other_mean, float other_squares) {
    const float both = count + other_count, share = other_count / fmaxf(both, 1.0f), distance = other_mean - mean;
    squares += other_squares + distance * distance * count * share;
    mean = fmaf(distance, share, mean);
    count = both;
  }
  DEVICE void merge_lane(int bits) {
    const float a = __shfl_xor_sync(FULL_WARP, count, bits), b = __shfl_xor_sync(FULL_WARP, mean, bits);
    merge(a, b, __shfl_xor_sync(FULL_WARP, squares, bits));
  }
  DEVICE void merge_stored(const float* numbers) { merge(numbers[0], numbers[1], numbers[2]); }
  DEVICE void store(float* numbers) const { numbers[0] = count, numbers[1] = mean, numbers[2] = squares; }
};

// The sum over the lanes whose numbers differ in the bits FIRST, 2 FIRST, ... LAST alone; each of them gets it.
template <int FIRST, int LAST>
DEVICE float lanes_sum(float value) {
#pragma unroll
  for (int bits = LAST; bits >= FIRST; bits >>= 1) value += __shfl_xor_sync(FULL_WARP, value, bits);
  return value;
}
// How many values such lanes hold: HELD each, those that are `inside` by their bit.
template <int FIRST, int LAST, int HELD>
struct Held {
  unsigned inside;
  float count, share;
  DEVICE Held(unsigned inside) : inside(inside) {
    count = lanes_sum<FIRST, LAST>(static_cast<float>(__popc(inside)));
    share = 1 / fmaxf(count, 1.0f);
  }
  // The moments of value(0), ..., value(HELD - 1) of these lanes. The distances are from the mean itself, since the
  // values are still there when it is known.
  template <class Value>
  DEVICE Moments moments(const Value& value) const {
    Moments all;
#pragma unroll
    for (int k = 0; k < HELD; ++k) all.mean += inside >> k & 1 ? value(k) : 0.0f;
    all.count = count;
    all.mean = lanes_sum<FIRST, LAST>(all.mean) * share;
#pragma unroll
    for (int k = 0; k < HELD; ++k) {
      const float distance = inside >> k & 1 ? value(k) - all.mean : 0.0f;
      all.squares = fmaf(distance, distance, all.squares);
    }
    all.squares = lanes_sum<FIRST, LAST>(all.squares);
    return all;
  }
};
// Merges what PARTS warps of a block have kept of each of its CHANNELS channels, (PARTS, CHANNELS, NUMBERS) numbers of
// shared memory, of which `channels` are there, from channel `first` on. With the bias, which may be null, they become
// part number `part` of `parts` of all channels' moments, (channels, parts, NUMBERS). All threads must call it.
template <int PARTS, int CHANNELS>
DEVICE void merge_kept(const float* kept, int channels, int first, const float* bias, float* moments, int part,
                       int parts) {
  __syncthreads();
  for (int channel = threadIdx.x; channel < min(CHANNELS, channels); channel += blockDim.x) {
    Moments all;
    for (int i = 0; i < PARTS; ++i) all.merge_stored(kept + (i * CHANNELS + channel) * Moments::NUMBERS);
    if (bias) all.mean += bias[first + channel];
    all.store(moments + (int64(first + channel) * parts + part) * Moments::NUMBERS);
  }
}
