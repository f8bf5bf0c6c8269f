// What the kernels of batch normalisation share: a channel's numbers, and the sums over its elements.
#pragma once
#include "moments.cuh"
#include "netc.cuh"
#include "relu.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32;

struct Channel {
  float mean, inverse, scale, shift;  // scale: factor times inverse, which is 1 / sqrt(variance + eps)
};
struct Slopes {  // of dx
  float scale, along, shift, unused;
};
template <class Four>
DEVICE Four load_four(const Four* all, int64 channel) {
  const auto four = load_packed<4>(reinterpret_cast<const float*>(all) + 4 * channel);
  return {four.v[0], four.v[1], four.v[2], four.v[3]};
}
DEVICE float normalised(float x, const Channel& c) { return fmaf(x - c.mean, c.scale, c.shift); }

// The sums of dy behind the ReLU, and of dy (x - mean).
struct Gradients {
  static constexpr int NUMBERS = 2;
  static constexpr bool READS_DY = true;
  float total = 0, along = 0;
  DEVICE void take(float distance, float g) {
    total += g;
    along = fmaf(g, distance, along);
  }
  DEVICE void close() {}
  DEVICE void merge_lane(int bits) {
    total += __shfl_xor_sync(FULL_WARP, total, bits);
    along += __shfl_xor_sync(FULL_WARP, along, bits);
  }
  DEVICE void merge_stored(const float* numbers) { total += numbers[0], along += numbers[1]; }
  DEVICE void store(float* numbers) const { numbers[0] = total, numbers[1] = along; }
};

// Some dy, and what backward reads beside. Without x there is no ReLU, and (x - mean) counts as 0.
template <int COUNT>
struct GradientPack {
  Packed<float, COUNT> x, y, dy;
  bool has_x, has_y;
  DEVICE float distance(int j, const Channel& c) const { return has_x ? x.v[j] - c.mean : 0.0f; }
  DEVICE float gradient(int j, const Channel& c, float slope) const {
    const float side = has_y ? y.v[j] : has_x ? normalised(x.v[j], c) : 1.0f;
    return side > 0 ? dy.v[j] : slope * dy.v[j];
  }
};
template <int COUNT>
DEVICE GradientPack<COUNT> load_gradients(int64 at, const float* x, const float* y, const float* dy) {
  GradientPack<COUNT> pack = {{}, {}, load_packed<COUNT>(dy + at), x != nullptr, y != nullptr};
  if (x) pack.x = load_packed<COUNT>(x + at);
  if (y) pack.y = load_packed<COUNT>(y + at);
  return pack;
}
