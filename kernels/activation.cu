// y = f(x) for every element, and dx = dy f'(x).
//
// Layout: flat arrays of n floats; y may be x, dx may be dy. `packed`: all addresses are multiples of 16 bytes.
// Mapping: for_each_pack.
// Bound: memory; forward 8 bytes an element, backward 8 for dy and dx and 4 for each of x and y that f' needs.
#include "elementwise.cuh"

struct Constants {
  float p, q, r;
};

// An activation. `backward` gets what it says that it reads, and zeros otherwise. (Divisions are the fast ones, within 2
// units in the last place for divisors below 2^126: the exact ones take a function call, and registers saved around it.)
struct Activation {
  static constexpr bool reads_x = true, reads_y = false, keeps = false;
  STATIC_DEVICE float kept(float, Constants) { return 0; }
};
struct Relu : Activation {  // p: negative slope
  // With no slope -inf gives 0, not NaN; a NaN stays one.
  STATIC_DEVICE float forward(float x, Constants c) { return x > 0 ? x : c.p == 0 && x <= 0 ? 0.0f : c.p * x; }
  STATIC_DEVICE float backward(float x, float, float dy, Constants c) { return dy * ((x > 0) + c.p * (x <= 0)); }
};
struct Relu6 : Activation {  // p: negative slope; the slope is 0 at 6 itself, so that it is the same in place
  STATIC_DEVICE float forward(float x, Constants c) { return x > 6 ? 6.0f : Relu::forward(x, c); }
  STATIC_DEVICE float backward(float x, float, float dy, Constants c) {
    return dy * ((x > 0 && x < 6) + c.p * (x <= 0));
  }
};
struct Clip : Activation {  // p: least, q: most
  STATIC_DEVICE float forward(float x, Constants c) { return x < c.p ? c.p : x > c.q ? c.q : x; }
  STATIC_DEVICE float backward(float x, float, float dy, Constants c) { return dy * (x >= c.p && x <= c.q); }
};
struct Elu : Activation {  // p: alpha
  static constexpr bool reads_y = true;
  STATIC_DEVICE float forward(float x, Constants c) { return x > 0 ? x : c.p * (expf(x) - 1); }
  STATIC_DEVICE float backward(float x, float y, float dy, Constants c) { return x > 0 ? dy : dy * (y + c.p); }
};
struct Selu : Activation {  // p: alpha, q: lambda
  STATIC_DEVICE float forward(float x, Constants c) { return c.q * (x > 0 ? x : c.p * (expf(x) - 1)); }
  STATIC_DEVICE float backward(float x, float, float dy, Constants c) { return dy * c.q * (x > 0 ? 1 : c.p * expf(x)); }
};
struct Sigmoid : Activation {
  static constexpr bool reads_x = false, reads_y = true;
  STATIC_DEVICE float forward(float x, Constants) { return 0.5f * tanhf(0.5f * x) + 0.5f; }  // cannot overflow
  STATIC_DEVICE float backward(float, float y, float dy, Constants) { return dy * (y * (1 - y)); }
};
struct TanH : Activation {
  static constexpr bool reads_x = false, reads_y = true;
  STATIC_DEVICE float forward(float x, Constants) { return tanhf(x); }
  STATIC_DEVICE float backward(float, float y, float dy, Constants) { return dy * (1 - y * y); }
};
struct Bnll : Activation {
  STATIC_DEVICE float forward(float x, Constants) { return (x > 0 ? x : 0.0f) + log1pf(expf(-fabsf(x))); }
  STATIC_DEVICE float backward(float x, float, float dy, Constants) {
    const float e = expf(x < 50.0f ? x : 50.0f);  // beyond 50 the slope is 1
    return dy * __fdividef(e, e + 1);
  }
};
struct Swish : Activation {  // p: beta; it keeps the sigmoid, which `backward` gets as x
  static constexpr bool reads_y = true, keeps = true;
  STATIC_DEVICE float kept(float x, Constants c) { return Sigmoid::forward(c.p * x, c); }
  STATIC_DEVICE float forward(float x, Constants c) { return x * kept(x, c); }
  STATIC_DEVICE float backward(float gate, float y, float dy, Constants c) {
    return dy * (c.p * y + gate * (1 - c.p * y));
  }
};
struct Threshold : Activation {  // p: the threshold
  STATIC_DEVICE float forward(float x, Constants c) { return x > c.p; }
};
struct Absolute : Activation {
  STATIC_DEVICE float forward(float x, Constants) { return fabsf(x); }
  STATIC_DEVICE float backward(float x, float, float dy, Constants) { return dy * ((x > 0) - (x < 0)); }
};
struct Linear : Activation {  // p x + q
  static constexpr bool reads_x = false;
  STATIC_DEVICE float forward(float x, Constants c) { return c.p * x + c.q; }
  STATIC_DEVICE float backward(float, float, float dy, Constants c) { return dy * c.p; }
};
struct Squared : Activation {  // (p x + q)^2
  STATIC_DEVICE float forward(float x, Constants c) { return (c.p * x + c.q) * (c.p * x + c.q); }
  STATIC_DEVICE float backward(float x, float, float dy, Constants c) { return dy * (2 * c.p * (c.p * x + c.q)); }
};
struct Power : Activation {  // (p x + q)^r
  static constexpr bool reads_y = true;
  STATIC_DEVICE float forward(float x, Constants c) { return powf(c.p * x + c.q, c.r); }
  STATIC_DEVICE float backward(float x, float y, float dy, Constants c) {
    return dy * (c.r * c.p * __fdividef(y, c.p * x + c.q));
  }
};
struct Exponential : Activation {  // q e^(p x)
  static constexpr bool reads_x = false, reads_y = true;
  STATIC_DEVICE float forward(float x, Constants c) { return c.q * expf(c.p * x); }
  STATIC_DEVICE float backward(float, float y, float dy, Constants c) { return dy * (y * c.p); }
};
struct Logarithm : Activation {  // r log(p x + q)
  STATIC_DEVICE float forward(float x, Constants c) { return c.r * logf(c.p * x + c.q); }
  STATIC_DEVICE float backward(float x, float, float dy, Constants c) {
    return dy * __fdividef(c.p * c.r, c.p * x + c.q);
  }
};

// kept: where what F keeps for backward goes, unless that is null.
template <class F>
__global__ void __launch_bounds__(256)
activation_forward(int64 n, bool packed, const float* x, float* y, float* kept, float p, float q, float r) {
  const Constants constants = {p, q, r};
  for_each_pack<4>(packed, n, [&](int64 i, auto pack) {
    auto values = load_packed<decltype(pack)::count>(x + i);
    if constexpr (F::keeps)
      if (kept) {
        auto copies = values;
#pragma unroll
        for (float& value : copies.v) value = F::kept(value, constants);
        store_packed(kept + i, copies);
      }
#pragma unroll
    for (float& value : values.v) value = F::forward(value, constants);
    store_packed(y + i, values);
  });
}

template <class F>
__global__ void __launch_bounds__(256)
activation_backward(int64 n, bool packed, const float* x, const float* y, const float* dy, float* dx, float p, float q,
                    float r) {
  const Constants constants = {p, q, r};
  for_each_pack<4>(packed, n, [&](int64 i, auto pack) {
    constexpr int count = decltype(pack)::count;
    Packed<float, count> bottom = {}, top = {};
    if constexpr (F::reads_x) bottom = load_packed<count>(x + i);
    if constexpr (F::reads_y) top = load_packed<count>(y + i);
    auto values = load_packed<count>(dy + i);
#pragma unroll
    for (int j = 0; j < count; ++j) values.v[j] = F::backward(bottom.v[j], top.v[j], values.v[j], constants);
    store_packed(dx + i, values);
  });
}
