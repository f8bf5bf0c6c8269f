// y = f(x) for every element, and dx = dy f'(x).
//
// Layout: flat arrays of n floats; y may be x, dx may be dy. Mapping: for_each_pack.
// Bound: memory; forward 8 bytes an element, backward 8 for dy and dx and 4 for each of x and y that f' needs.
#include "elementwise.cuh"

// An activation: its two constants are p and q. `backward` gets what it says that it reads, and zeros otherwise.
struct Relu {  // p: negative slope
  static constexpr bool reads_x = true, reads_y = false;
  // With no slope -inf gives 0, not NaN; a NaN stays one.
  STATIC_DEVICE float forward(float x, float p, float) { return x > 0 ? x : p == 0 && x <= 0 ? 0.0f : p * x; }
  STATIC_DEVICE float backward(float x, float, float dy, float p, float) { return dy * ((x > 0) + p * (x <= 0)); }
};
struct Relu6 {  // p: negative slope; the slope is 0 at 6 itself, so that it is the same in place
  static constexpr bool reads_x = true, reads_y = false;
  STATIC_DEVICE float forward(float x, float p, float) { return x > 6 ? 6.0f : Relu::forward(x, p, 0); }
  STATIC_DEVICE float backward(float x, float, float dy, float p, float) {
    return dy * ((x > 0 && x < 6) + p * (x <= 0));
  }
};
struct Clip {  // p: least, q: most
  static constexpr bool reads_x = true, reads_y = false;
  STATIC_DEVICE float forward(float x, float p, float q) { return x < p ? p : x > q ? q : x; }
  STATIC_DEVICE float backward(float x, float, float dy, float p, float q) { return dy * (x >= p && x <= q); }
};
struct Elu {  // p: alpha
  static constexpr bool reads_x = true, reads_y = true;
  STATIC_DEVICE float forward(float x, float p, float) { return x > 0 ? x : p * (expf(x) - 1); }
  STATIC_DEVICE float backward(float x, float y, float dy, float p, float) { return x > 0 ? dy : dy * (y + p); }
};
struct Sigmoid {
  static constexpr bool reads_x = false, reads_y = true;
  STATIC_DEVICE float forward(float x, float, float) { return 0.5f * tanhf(0.5f * x) + 0.5f; }  // cannot overflow
  STATIC_DEVICE float backward(float, float y, float dy, float, float) { return dy * (y * (1 - y)); }
};
struct TanH {
  static constexpr bool reads_x = false, reads_y = true;
  STATIC_DEVICE float forward(float x, float, float) { return tanhf(x); }
  STATIC_DEVICE float backward(float, float y, float dy, float, float) { return dy * (1 - y * y); }
};
struct Bnll {
  static constexpr bool reads_x = true, reads_y = false;
  STATIC_DEVICE float forward(float x, float, float) { return (x > 0 ? x : 0.0f) + log1pf(expf(-fabsf(x))); }
  STATIC_DEVICE float backward(float x, float, float dy, float, float) {
    const float e = expf(x < 50.0f ? x : 50.0f);  // beyond 50 the slope is 1
    return dy * (e / (e + 1));
  }
};

template <class F, int COUNT>
__global__ void __launch_bounds__(256) activation_forward(int64 n, const float* x, float* y, float p, float q) {
  for_each_pack<COUNT>(n, [&](int64 i, auto pack) {
    auto values = load_packed<decltype(pack)::count>(x + i);
#pragma unroll
    for (float& value : values.v) value = F::forward(value, p, q);
    store_packed(y + i, values);
  });
}

template <class F, int COUNT>
__global__ void __launch_bounds__(256)
activation_backward(int64 n, const float* x, const float* y, const float* dy, float* dx, float p, float q) {
  for_each_pack<COUNT>(n, [&](int64 i, auto pack) {
    constexpr int count = decltype(pack)::count;
    Packed<float, count> bottom = {}, top = {};
    if constexpr (F::reads_x) bottom = load_packed<count>(x + i);
    if constexpr (F::reads_y) top = load_packed<count>(y + i);
    auto values = load_packed<count>(dy + i);
#pragma unroll
    for (int j = 0; j < count; ++j) values.v[j] = F::backward(bottom.v[j], top.v[j], values.v[j], p, q);
    store_packed(dx + i, values);
  });
}
