// Setting and copying floats.
//
// Layout: flat arrays of n floats, or rows of `columns` floats that begin `pitch` floats apart. Mapping: for_each_pack.
// Bound: memory; 4 bytes an element for fill, 8 for the copies.
#include "elementwise.cuh"

template <int COUNT>
__global__ void __launch_bounds__(256) fill(int64 n, float value, float* y) {
  for_each_pack<COUNT>(n, [&](int64 i, auto pack) {
    Packed<float, decltype(pack)::count> values;
#pragma unroll
    for (float& element : values.v) element = value;
    store_packed(y + i, values);
  });
}

template <int COUNT>
__global__ void __launch_bounds__(256) copy(int64 n, const float* __restrict__ x, float* __restrict__ y) {
  for_each_pack<COUNT>(n, [&](int64 i, auto pack) { store_packed(y + i, load_packed<decltype(pack)::count>(x + i)); });
}

// What concatenating and slicing are made of. COUNT > 1 needs `columns` and both pitches to be multiples of it.
template <int COUNT>
__global__ void __launch_bounds__(256) copy_rows(int64 rows, int64 columns, const float* __restrict__ x, int64 x_pitch,
                                                 float* __restrict__ y, int64 y_pitch) {
  const int64 packs = columns / COUNT;
  for_each_pack<1>(rows * packs, [&](int64 i, auto) {
    const int64 row = i / packs, column = i % packs * COUNT;
    store_packed(y + row * y_pitch + column, load_packed<COUNT>(x + row * x_pitch + column));
  });
}
