// CUDA C++ as g++ is to read it: keywords, vector types, block barriers, atomics and intrinsics.
#pragma once
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#include "runtime.h"

#define __global__ inline  // of a file's kernels only the one that is asked for is compiled
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __constant__
#define __align__(n) __attribute__((aligned(n)))
#define EMU_JOIN_NOW(a, b) a##b
#define EMU_JOIN(a, b) EMU_JOIN_NOW(a, b)

// A block's shared variables are static: one block runs at a time. In check mode a red zone lies before each, so
// that running over the end of one never lands in the next.
#ifdef EMU_CHECK_MODE
#define __shared__ static __attribute__((used)) char EMU_JOIN(emu_red_zone_, __COUNTER__)[64]; static
#else
#define __shared__ static
#endif

#define EMU_VECTOR_TYPES(T, name)                                                        \
  struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                     \
  struct name##3 { T x, y, z; };                                                         \
  struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) name##4 { T x, y, z, w; };     \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                             \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                     \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMU_VECTOR_TYPES(float, float)
EMU_VECTOR_TYPES(double, double)
EMU_VECTOR_TYPES(int, int)
EMU_VECTOR_TYPES(unsigned, uint)
EMU_VECTOR_TYPES(short, short)
EMU_VECTOR_TYPES(unsigned short, ushort)
EMU_VECTOR_TYPES(unsigned char, uchar)

#define threadIdx (emu_now.thread)
#define blockIdx (emu_now.block)
#define blockDim (emu_now.block_size)
#define gridDim (emu_now.grid_size)
constexpr int warpSize = 32;

// ---- block barriers ----
// A barrier is known by its source line: the compiler may copy the call, which gives one barrier two addresses.
EMU_OPERATION void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emu_block_barrier(0, nullptr, file, line);
}
EMU_OPERATION int __syncthreads_count(int vote, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  int votes = 0;
  emu_block_barrier(vote != 0, &votes, file, line);
  return votes;
}
EMU_OPERATION int __syncthreads_or(int vote, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  int votes = 0;
  emu_block_barrier(vote != 0, &votes, file, line);
  return votes != 0;
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- memory ----
template <class T>
__forceinline__ T __ldg(const T* p) {
  return *p;
}
#define EMU_ATOMIC(name, result)                                   \
  template <class T>                                               \
  EMU_OPERATION T name(T* p, std::common_type_t<T> value) {        \
    EMU_REPORT_ACCESS(p, sizeof(T), EMU_ATOMIC_ACCESS, EMU_SITE);         \
    T old = *p;                                                    \
    *p = (result);                                                 \
    return old;                                                    \
  }
EMU_ATOMIC(atomicAdd, old + value)
EMU_ATOMIC(atomicMax, old > value ? old : value)
EMU_ATOMIC(atomicMin, old < value ? old : value)
EMU_ATOMIC(atomicExch, value)
EMU_ATOMIC(atomicOr, old | value)
EMU_ATOMIC(atomicAnd, old& value)
#undef EMU_ATOMIC
template <class T>
EMU_OPERATION T atomicCAS(T* p, std::common_type_t<T> expected, std::common_type_t<T> value) {
  EMU_REPORT_ACCESS(p, sizeof(T), EMU_ATOMIC_ACCESS, EMU_SITE);
  T old = *p;
  if (old == expected) *p = value;
  return old;
}

// ---- arithmetic; __expf and its like are the exact functions here, so tests of kernels allow for a difference ----
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; }
template <class To, class From>
EMU_UNCHECKED inline To emu_same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
inline int __float_as_int(float x) { return emu_same_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return emu_same_bits<unsigned>(x); }
inline float __int_as_float(int x) { return emu_same_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return emu_same_bits<float>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}
template <class A, class B>
inline auto min(A a, B b) -> std::common_type_t<A, B> {
  return a < b ? a : b;
}
template <class A, class B>
inline auto max(A a, B b) -> std::common_type_t<A, B> {
  return a > b ? a : b;
}

#include "warp.h"
