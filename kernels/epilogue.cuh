// What convolutions do to a sum before they store it: y = relu(factor sum + bias + residual).
//
// A channel's factor and bias, and the residual, may each be missing, which is null. The residual lies as y does. Kernels
// with many sums to a thread are compiled apart for endings that are LONG: all that does not, has a bias and a ReLU at
// most, and is compiled in half the time.
#pragma once
#include "relu.cuh"

#define ENDING                                                                                                   \
  const float *__restrict__ bias, const float *__restrict__ factor, const float *__restrict__ residual, float slope

// What is the same for all sums of a channel.
struct Line {
  float factor, bias;
  DEVICE float at(float sum) const { return fmaf(factor, sum, bias); }
};
#define LONG_OR_SHORT(LONG) \
  { bias, LONG ? factor : nullptr, LONG ? residual : nullptr, slope }
struct Ending {
  const float *bias, *factor, *residual;
  float slope;

  DEVICE Line line(int channel) const { return {factor ? factor[channel] : 1.0f, bias ? bias[channel] : 0.0f}; }
  // Whether COUNT results at once can be stored from `target` on, and as much of the residual be loaded.
  template <int COUNT>
  DEVICE bool is_packed(const float* target) const {
    return (reinterpret_cast<uint64>(target) | reinterpret_cast<uint64>(residual)) % (COUNT * sizeof(float)) == 0;
  }
  // Stores COUNT results, the first of which is number `at` of y. Before: what the line has made of the sums.
  template <int COUNT>
  DEVICE void store(float* y, int64 at, const Packed<float, COUNT>& values) const {
    store_to(y + at, y, values);
  }
  // The same to an address in y.
  template <int COUNT>
  DEVICE void store_to(float* target, const float* y, Packed<float, COUNT> values) const {
    if (residual) {
      const uint64 apart = reinterpret_cast<uint64>(residual) - reinterpret_cast<uint64>(y);
      const auto others = load_packed<COUNT>(reinterpret_cast<const float*>(reinterpret_cast<uint64>(target) + apart));
#pragma unroll
      for (int e = 0; e < COUNT; ++e) values.v[e] += others.v[e];
    }
#pragma unroll
    for (int e = 0; e < COUNT; ++e) values.v[e] = relu(values.v[e], slope);
    store_packed(target, values);
  }
};
