// Numbers of 16 bits (fp16, bf16) and tf32: stored as bits, rounded to nearest, computed with as fp32.
#pragma once

struct fp16 {
  static constexpr bool IS_BF16 = false;
  unsigned short bits;
};
struct bf16 {
  static constexpr bool IS_BF16 = true;
  unsigned short bits;
};

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(bf16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
#if NETC_GPU
DEVICE float to_float(fp16 x) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x.bits));
  return result;
}
#else
DEVICE float to_float(fp16 x) { return static_cast<float>(emu_same_bits<_Float16>(x.bits)); }
#endif

template <class T>
DEVICE T from_float(float x);
template <>
DEVICE float from_float<float>(float x) {
  return x;
}
template <>
DEVICE bf16 from_float<bf16>(float x) {  // to nearest, ties to even; a NaN stays one
  const unsigned bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<unsigned short>(bits >> 16 | 0x40u)};
  return {static_cast<unsigned short>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}
template <>
DEVICE fp16 from_float<fp16>(float x) {
#if NETC_GPU
  fp16 result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
  return result;
#else
  return {emu_same_bits<unsigned short>(static_cast<_Float16>(x))};
#endif
}

// The nearest number with 10 bits of mantissa, ties away from zero: what the tensor cores take as tf32.
DEVICE unsigned to_tf32(float x) {
#if NETC_GPU
  unsigned result;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(result) : "f"(x));
  return result;
#else
  const unsigned bits = __float_as_uint(x);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return finite ? (bits + 0x1000u) & 0xffffe000u : bits;
#endif
}

// Two numbers rounded to T (fp16 or bf16), the first in the lower half: a register of a matrix operand (sm_80).
template <class T>
DEVICE unsigned narrow_pair(float low, float high) {
#if NETC_GPU
  unsigned result;
  if constexpr (T::IS_BF16)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
#else
  return from_float<T>(low).bits | static_cast<unsigned>(from_float<T>(high).bits) << 16;
#endif
}
