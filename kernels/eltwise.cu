// Several arrays of one size into one, element by element, and one into several: Eltwise and the gradients of Split.
//
// Layout: flat arrays of n floats, at most MOST (8 or less) of them at once; further pointers are null. `packed`: all
// addresses are multiples of 16 bytes. An output may be an input: no element is read after it was written.
// Mapping: for_each_pack.
// Bound: memory; 4 bytes an element for each array that is read or written.
#include "eight.cuh"
#include "elementwise.cuh"
#include "relu.cuh"

struct Sum {
  STATIC_DEVICE float first(float x, float coefficient) { return coefficient * x; }
  STATIC_DEVICE float next(float y, float x, float coefficient) { return y + coefficient * x; }
};
struct Product {
  STATIC_DEVICE float first(float x, float) { return x; }
  STATIC_DEVICE float next(float y, float x, float) { return y * x; }
};

// y = relu(c0 x0 + c1 x1 + ...), or the product of `count` arrays.
template <class Operation, int MOST>
__global__ void __launch_bounds__(256)
combine(int64 n, bool packed, int count, EIGHT(const float*, x), EIGHT(float, c), float* y, float slope) {
  const float* const sources[] = GATHER_EIGHT(x);
  const float coefficients[] = GATHER_EIGHT(c);
  for_each_pack<4>(packed, n, [&](int64 i, auto pack) {
    constexpr int width = decltype(pack)::count;
    Packed<float, width> values[MOST];
#pragma unroll
    for (int k = 0; k < MOST; ++k)
      if (k < count) values[k] = load_packed<width>(sources[k] + i);
    Packed<float, width> result;
#pragma unroll
    for (int j = 0; j < width; ++j) {
      float v = Operation::first(values[0].v[j], coefficients[0]);
#pragma unroll
      for (int k = 1; k < MOST; ++k)
        if (k < count) v = Operation::next(v, values[k].v[j], coefficients[k]);
      result.v[j] = relu(v, slope);
    }
    store_packed(y + i, result);
  });
}

// dx_k = c_k dy f'(y) for each array that is there; f is the ReLU that made y, and nothing where y is null.
template <int MOST>
__global__ void __launch_bounds__(256)
spread_gradient(int64 n, bool packed, const float* dy, const float* y, float slope, EIGHT(float*, dx), EIGHT(float, c)) {
  float* const targets[] = GATHER_EIGHT(dx);
  const float coefficients[] = GATHER_EIGHT(c);
  for_each_pack<4>(packed, n, [&](int64 i, auto pack) {
    constexpr int width = decltype(pack)::count;
    auto gradient = load_packed<width>(dy + i);
    if (y) {
      const auto top = load_packed<width>(y + i);
#pragma unroll
      for (int j = 0; j < width; ++j) gradient.v[j] *= top.v[j] > 0 ? 1.0f : slope;
    }
#pragma unroll
    for (int k = 0; k < MOST; ++k) {
      if (!targets[k]) continue;
      auto scaled = gradient;
#pragma unroll
      for (float& value : scaled.v) value *= coefficients[k];
      store_packed(targets[k] + i, scaled);
    }
  });
}

// y = max(x0, x1, ...) and the number of the array that it is from: x1 wins a tie with x0, the earlier every other tie.
// A NaN makes y one.
template <int MOST>
__global__ void __launch_bounds__(256)
maximum(int64 n, bool packed, int count, EIGHT(const float*, x), float* y, unsigned char* winner) {
  const float* const sources[] = GATHER_EIGHT(x);
  for_each_pack<4>(packed, n, [&](int64 i, auto pack) {
    constexpr int width = decltype(pack)::count;
    auto most = load_packed<width>(x0 + i);
    Packed<unsigned char, width> from = {};
#pragma unroll
    for (int k = 1; k < MOST; ++k) {
      if (k >= count) continue;
      const auto values = load_packed<width>(sources[k] + i);
#pragma unroll
      for (int j = 0; j < width; ++j) {
        const float x = values.v[j];
        if (k == 1 ? most.v[j] <= x : x > most.v[j]) from.v[j] = k;
        if (!(most.v[j] >= x) && most.v[j] == most.v[j]) most.v[j] = x;
      }
    }
    store_packed(y + i, most);
    store_packed(winner + i, from);
  });
}

// dx_k = dy where x_k was the maximum, 0 elsewhere, for each array that is there.
template <int MOST>
__global__ void __launch_bounds__(256)
maximum_gradient(int64 n, bool packed, const float* dy, const unsigned char* winner, EIGHT(float*, dx)) {
  float* const targets[] = GATHER_EIGHT(dx);
  for_each_pack<4>(packed, n, [&](int64 i, auto pack) {
    constexpr int width = decltype(pack)::count;
    const auto gradient = load_packed<width>(dy + i);
    const auto from = load_packed<width>(winner + i);
#pragma unroll
    for (int k = 0; k < MOST; ++k) {
      if (!targets[k]) continue;
      auto mine = gradient;
#pragma unroll
      for (int j = 0; j < width; ++j) mine.v[j] *= from.v[j] == k;
      store_packed(targets[k] + i, mine);
    }
  });
}

// dx = dy y / x: the gradient of one factor of the product y. (The fast division is within 2 units in the last place for
// |x| < 2^126; the exact one takes a function call, and registers saved around it.)
template <int COUNT>
__global__ void __launch_bounds__(256)
divide_gradient(int64 n, bool packed, const float* dy, const float* y, const float* x, float* dx) {
  for_each_pack<COUNT>(packed, n, [&](int64 i, auto pack) {
    constexpr int width = decltype(pack)::count;
    auto gradient = load_packed<width>(dy + i);
    const auto top = load_packed<width>(y + i), bottom = load_packed<width>(x + i);
#pragma unroll
    for (int j = 0; j < width; ++j) gradient.v[j] *= __fdividef(top.v[j], bottom.v[j]);
    store_packed(dx + i, gradient);
  });
}
