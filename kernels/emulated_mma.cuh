// The CPU bodies of mma.cuh: the lanes' registers are gathered into matrices, multiplied, and dealt out again.
#pragma once

struct EmuMma {
  float* d;
  const unsigned *a, *b;
  const float* c;
};
EMU_UNCHECKED inline void emu_need_full_warp(unsigned mask) {
  if (mask != FULL_WARP) emu_fail("bad mask", "a matrix operation needs all 32 lanes of its warp", nullptr);
}
// One register as numbers: tf32 holds one (whose lower bits the hardware ignores), 16 bits hold two.
struct EmuTf32 {
  static constexpr int PER_REGISTER = 1;
  EMU_UNCHECKED static float get(unsigned bits, int) { return __uint_as_float(bits & 0xffffe000u); }
};
struct EmuBf16 {
  static constexpr int PER_REGISTER = 2;
  EMU_UNCHECKED static float get(unsigned bits, int i) { return __uint_as_float(bits >> 16 * i << 16); }
};
struct EmuFp16 {
  static constexpr int PER_REGISTER = 2;
  EMU_UNCHECKED static float get(unsigned bits, int i) {
    return static_cast<float>(emu_same_bits<_Float16>(static_cast<unsigned short>(bits >> 16 * i)));
  }
};

template <class Number>
EMU_UNCHECKED static void emu_exchange_mma(void** lanes, unsigned mask) {
  constexpr int PER = Number::PER_REGISTER, K = 8 * PER;
  emu_need_full_warp(mask);
  float A[16][K], B[K][8], C[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto* mine = static_cast<EmuMma*>(lanes[lane]);
    const int g = lane / 4, q = lane % 4;
    for (int i = 0; i < 4; ++i)
      for (int h = 0; h < PER; ++h)
        A[g + 8 * (i % 2)][PER * q + h + 4 * PER * (i / 2)] = Number::get(mine->a[i], h);
    for (int i = 0; i < 2; ++i)
      for (int h = 0; h < PER; ++h) B[PER * q + h + 4 * PER * i][g] = Number::get(mine->b[i], h);
    for (int i = 0; i < 4; ++i) C[g + 8 * (i / 2)][2 * q + i % 2] = mine->c[i];
  }
  for (int i = 0; i < 16; ++i)
    for (int k = 0; k < K; ++k)
      for (int j = 0; j < 8; ++j) C[i][j] += A[i][k] * B[k][j];
  for (int lane = 0; lane < 32; ++lane) {
    const auto* mine = static_cast<EmuMma*>(lanes[lane]);
    for (int i = 0; i < 4; ++i) mine->d[i] = C[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
  }
}
#define NETC_MMA(name, Number)                                                                                        \
  EMU_OPERATION void name(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], const float (&c)[4]) {       \
    EmuMma mine{d, a, b, c};                                                                                          \
    emu_warp_meet(FULL_WARP, &mine, emu_exchange_mma<Number>, false, EMU_SITE);                                       \
  }
NETC_MMA(mma_m16n8k8_tf32, EmuTf32)
NETC_MMA(mma_m16n8k16_bf16, EmuBf16)
NETC_MMA(mma_m16n8k16_fp16, EmuFp16)
#undef NETC_MMA

struct EmuLdmatrix {
  const unsigned short* row;
  unsigned* registers;
};
template <int COUNT, bool TRANSPOSED>
EMU_UNCHECKED static void emu_exchange_ldmatrix(void** lanes, unsigned mask) {
  emu_need_full_warp(mask);
  auto lane_of = [&](int lane) EMU_UNCHECKED { return static_cast<EmuLdmatrix*>(lanes[lane]); };
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, q = lane % 4;
    for (int i = 0; i < COUNT; ++i) {
      auto number = [&](int row, int column) EMU_UNCHECKED { return unsigned(lane_of(8 * i + row)->row[column]); };
      const unsigned low = TRANSPOSED ? number(2 * q, g) : number(g, 2 * q);
      const unsigned high = TRANSPOSED ? number(2 * q + 1, g) : number(g, 2 * q + 1);
      lane_of(lane)->registers[i] = low | high << 16;
    }
  }
}
template <int COUNT, bool TRANSPOSED>
EMU_OPERATION void ldmatrix(unsigned (&r)[COUNT], const void* row) {
  static_assert(COUNT == 1 || COUNT == 2 || COUNT == 4);
  // The addresses of lanes beyond the matrices are not used.
  if (int(emu_now.lane) < 8 * COUNT) EMU_REPORT_ACCESS(row, 16, EMU_READ, EMU_SITE);
  EmuLdmatrix mine{static_cast<const unsigned short*>(row), r};
  emu_warp_meet(FULL_WARP, &mine, emu_exchange_ldmatrix<COUNT, TRANSPOSED>, false, EMU_SITE);
}
