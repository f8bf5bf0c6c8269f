// One number for each channel meets the channel's elements: Scale, Bias, Axpy, the biases of InnerProduct, and PReLU.
//
// Layout: arrays (outer, channels, inner) of floats, `channels` numbers. `packed`: all addresses of arrays are multiples
// of 16 bytes. The top may be the bottom's memory. Mapping: for_each_pack.
// Bound: memory; 4 bytes an element for each array that is read or written.
#include "broadcast.cuh"
#include "elementwise.cuh"
#include "relu.cuh"

// y = relu(a x + b + z): a and b are numbers of channels, z is an array; each may be null. x also goes to `kept`, unless
// that is null. `image`: how many elements meet the same channels' numbers, before those of the next image begin; 0 for
// all.
template <int COUNT>
__global__ void __launch_bounds__(256)
scale(unsigned n, bool packed, unsigned inner, uint64 inner_r, unsigned channels, uint64 channels_r, unsigned image,
      uint64 image_r, const float* x, const float* a, const float* b, const float* z, float* y, float* kept,
      float slope) {
  const Channels layout = {{inner, inner_r}, {channels, channels_r}};
  for_each_pack<COUNT>(packed, n, [&](int64 i, auto pack) {
    constexpr int count = decltype(pack)::count;
    auto values = load_packed<count>(x + i);
    Packed<float, count> added = {};
    if (z) added = load_packed<count>(z + i);
    if (kept) store_packed(kept + i, values);
    Channel at = layout.of(static_cast<unsigned>(i));
#pragma unroll
    for (int j = 0; j < count; ++j) {
      float v = values.v[j];
      const unsigned first = image ? Divisor{image, image_r}.quotient(static_cast<unsigned>(i) + j) * channels : 0;
      if (a) v *= a[first + at.channel];
      if (b) v += b[first + at.channel];
      values.v[j] = relu(v + added.v[j], slope);
      layout.advance(at);
    }
    store_packed(y + i, values);
  });
}

// y = x where x is positive, a x elsewhere. x also goes to `kept`, unless that is null.
template <int COUNT>
__global__ void __launch_bounds__(256)
prelu_forward(unsigned n, bool packed, unsigned inner, uint64 inner_r, unsigned channels, uint64 channels_r,
              const float* x, const float* a, float* y, float* kept) {
  const Channels layout = {{inner, inner_r}, {channels, channels_r}};
  for_each_pack<COUNT>(packed, n, [&](int64 i, auto pack) {
    constexpr int count = decltype(pack)::count;
    auto values = load_packed<count>(x + i);
    if (kept) store_packed(kept + i, values);
    Channel at = layout.of(static_cast<unsigned>(i));
#pragma unroll
    for (int j = 0; j < count; ++j) {
      values.v[j] *= values.v[j] > 0 ? 1.0f : a[at.channel];
      layout.advance(at);
    }
    store_packed(y + i, values);
  });
}

// dx = dy where x is positive, a dy elsewhere. dx may be dy.
template <int COUNT>
__global__ void __launch_bounds__(256)
prelu_backward(unsigned n, bool packed, unsigned inner, uint64 inner_r, unsigned channels, uint64 channels_r,
               const float* x, const float* a, const float* dy, float* dx) {
  const Channels layout = {{inner, inner_r}, {channels, channels_r}};
  for_each_pack<COUNT>(packed, n, [&](int64 i, auto pack) {
    constexpr int count = decltype(pack)::count;
    const auto bottom = load_packed<count>(x + i);
    auto values = load_packed<count>(dy + i);
    Channel at = layout.of(static_cast<unsigned>(i));
#pragma unroll
    for (int j = 0; j < count; ++j) {
      values.v[j] *= bottom.v[j] > 0 ? 1.0f : a[at.channel];
      layout.advance(at);
    }
    store_packed(dx + i, values);
  });
}
