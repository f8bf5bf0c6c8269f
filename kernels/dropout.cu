// Dropout: a random part of the values is left out.
//
// y = scale x + shift where the mask has a bit, `dropped` elsewhere; dx = scale dy or 0. Bit j of byte i of the mask
// stands for element 8 i + j.
//
// Layout: flat arrays of n floats and n / 8 bytes, rounded up; y may be x, dx may be dy. Mapping: a thread for 8
// elements, which are one call of the random stream (stream.cuh) and one byte.
// Bound: memory, 8.1 bytes an element; a draw costs about 30 integer operations an element beside.
#include "stream.cuh"

// Calls body(i) for the number of every byte of the mask.
template <class Body>
DEVICE void for_each_byte(int64 n, const Body& body) {
  const int64 bytes = divide_up(n, int64(DRAWN)), step = int64(gridDim.x) * blockDim.x;
  for (int64 i = int64(blockIdx.x) * blockDim.x + threadIdx.x; i < bytes; i += step) body(i);
}

// The 8 elements from `i` on, as packs of COUNT where all of them are there.
template <int COUNT>
struct Eight {
  float v[DRAWN] = {};
  DEVICE void load(const float* x, int64 i, int64 n) {
    if (i + DRAWN <= n) {
#pragma unroll
      for (int j = 0; j < DRAWN; j += COUNT) {
        const auto pack = load_packed<COUNT>(x + i + j);
#pragma unroll
        for (int k = 0; k < COUNT; ++k) v[j + k] = pack.v[k];
      }
    } else {
#pragma unroll
      for (int j = 0; j < DRAWN; ++j)
        if (i + j < n) v[j] = x[i + j];
    }
  }
  DEVICE void store(float* y, int64 i, int64 n) const {
    if (i + DRAWN <= n) {
#pragma unroll
      for (int j = 0; j < DRAWN; j += COUNT) {
        Packed<float, COUNT> pack;
#pragma unroll
        for (int k = 0; k < COUNT; ++k) pack.v[k] = v[j + k];
        store_packed(y + i + j, pack);
      }
    } else {
#pragma unroll
      for (int j = 0; j < DRAWN; ++j)
        if (i + j < n) y[i + j] = v[j];
    }
  }
};

// An element is kept where its number of draw `*draw`, in [0, 1), is not below `ratio`. `mask` may be null.
template <int COUNT>
__global__ void __launch_bounds__(256)
dropout_forward(int64 n, const float* x, float ratio, float scale, float shift, float dropped, uint64 seed, uint64 name,
                const int64* __restrict__ draw, float* y, unsigned char* __restrict__ mask) {
  const uint64 number = static_cast<uint64>(*draw);
  for_each_byte(n, [&](int64 i) {
    Eight<COUNT> values;
    values.load(x, i * DRAWN, n);
    unsigned bits[DRAWN], kept = 0;
    draw_bits(bits, seed, name, number, static_cast<uint64>(i));
#pragma unroll
    for (int j = 0; j < DRAWN; ++j) {
      const bool keeps = to_uniform(bits[j]) >= ratio;
      kept |= static_cast<unsigned>(keeps) << j;
      values.v[j] = keeps ? fmaf(scale, values.v[j], shift) : dropped;
    }
    values.store(y, i * DRAWN, n);
    if (mask) mask[i] = static_cast<unsigned char>(kept);
  });
}

template <int COUNT>
__global__ void __launch_bounds__(256) dropout_backward(int64 n, const float* dy, float scale,
                                                        const unsigned char* __restrict__ mask, float* dx) {
  for_each_byte(n, [&](int64 i) {
    Eight<COUNT> values;
    values.load(dy, i * DRAWN, n);
    const unsigned kept = mask[i];
#pragma unroll
    for (int j = 0; j < DRAWN; ++j) values.v[j] = kept >> j & 1 ? scale * values.v[j] : 0.0f;
    values.store(dx, i * DRAWN, n);
  });
}

// y = scale x: what is left of dropout where nothing is dropped.
template <int COUNT>
__global__ void __launch_bounds__(256) dropout_scale(int64 n, const float* x, float scale, float* y) {
  for_each_byte(n, [&](int64 i) {
    Eight<COUNT> values;
    values.load(x, i * DRAWN, n);
#pragma unroll
    for (float& value : values.v) value *= scale;
    values.store(y, i * DRAWN, n);
  });
}
