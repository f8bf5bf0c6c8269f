// What every kernel file includes: the dialect, and the only wrappers behind which PTX stands.
//
// A kernel is compiled twice: for a GPU, and by g++ for the emulator (dialect.h then gives CUDA's words a meaning).
// A wrapper therefore has two bodies, side by side. Rules for kernels: no inline assembly, cooperative groups or
// standard headers of their own; dynamic shared memory through DYNAMIC_SHARED; only _sync warp functions with exact
// masks; no waiting between blocks; tails handled; sums in fp32 or better.
#pragma once
#if defined(__CUDACC__)
#define NETC_GPU 1
#define DEVICE __device__ __forceinline__
#define STATIC_DEVICE static __device__ __forceinline__  // within a structure
#define EMU_REPORT_VECTOR(address, bytes, access) (void)0
#define DYNAMIC_SHARED(T, name)                                          \
  extern __shared__ __align__(128) unsigned char netc_dynamic_shared[]; \
  T* name = reinterpret_cast<T*>(netc_dynamic_shared)
#else
#define NETC_GPU 0
#include "dialect.h"
#define DEVICE __forceinline__
#define STATIC_DEVICE static __forceinline__
#define DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(emu_now.dynamic_shared)
#endif

using int64 = long long;
using uint64 = unsigned long long;

constexpr unsigned FULL_WARP = 0xffffffffu;

template <class T>
DEVICE T divide_up(T a, T b) {
  return (a + b - 1) / b;
}

// COUNT numbers that are loaded and stored at once; the address must be a multiple of their size.
template <class T, int COUNT>
struct alignas(sizeof(T) * COUNT) Packed {
  T v[COUNT];
};
template <int COUNT, class T>
DEVICE Packed<T, COUNT> load_packed(const T* p) {
  EMU_REPORT_VECTOR(p, sizeof(T) * COUNT, EMU_READ);
  return *reinterpret_cast<const Packed<T, COUNT>*>(p);
}
template <int COUNT, class T>
DEVICE void store_packed(T* p, const Packed<T, COUNT>& value) {
  EMU_REPORT_VECTOR(p, sizeof(T) * COUNT, EMU_WRITE);
  *reinterpret_cast<Packed<T, COUNT>*>(p) = value;
}

// The sum of a value over all 32 lanes; every lane gets it.
template <class T>
DEVICE T warp_sum(T value) {
#pragma unroll
  for (int bits = 16; bits > 0; bits >>= 1) value += __shfl_xor_sync(FULL_WARP, value, bits);
  return value;
}

// The sum of a value over a block of THREADS (a multiple of 32) threads; thread 0 gets it. All threads must call it.
template <int THREADS, class T>
DEVICE T block_sum(T value) {
  static_assert(THREADS % 32 == 0, "whole warps");
  __shared__ T sums[THREADS / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  value = warp_sum(value);
  if (lane == 0) sums[warp] = value;
  __syncthreads();
  if (warp == 0) value = warp_sum(lane < THREADS / 32 ? sums[lane] : T(0));
  __syncthreads();  // the sums may be written again by a second call
  return value;
}

#include "async_copy.cuh"
#include "mma.cuh"
#include "narrow.cuh"
#include "philox.cuh"
