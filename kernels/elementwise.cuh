// How threads are dealt out over flat arrays: a grid-stride loop over packs of COUNT elements, then over the rest.
#pragma once
#include "netc.cuh"

// Calls body(i, pack) for COUNT elements from i on, pack telling how many as a compile-time constant; the last few
// elements come one by one. COUNT > 1 needs addresses that are multiples of COUNT elements.
template <int COUNT>
struct PackOf {
  static constexpr int count = COUNT;
};
template <int COUNT, class Body>
DEVICE void for_each_pack(int64 n, const Body& body) {
  const int64 first = int64(blockIdx.x) * blockDim.x + threadIdx.x, step = int64(gridDim.x) * blockDim.x;
  for (int64 i = first * COUNT; i + COUNT <= n; i += step * COUNT) body(i, PackOf<COUNT>{});
  if constexpr (COUNT > 1)
    for (int64 i = n / COUNT * COUNT + first; i < n; i += step) body(i, PackOf<1>{});
}
// The same where it is known at run time only whether all addresses allow packs: one kernel then serves both cases.
template <int COUNT, class Body>
DEVICE void for_each_pack(bool packed, int64 n, const Body& body) {
  if (packed)
    for_each_pack<COUNT>(n, body);
  else
    for_each_pack<1>(n, body);
}
