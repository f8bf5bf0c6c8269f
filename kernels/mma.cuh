// Products of small matrices by a whole warp on tensor cores (mma.sync), and the loads of their operands (ldmatrix).
//
// D[16][8] = A[16][k] B[k][8] + C[16][8], sums in fp32. With g = lane / 4 and q = lane % 4 a lane holds
//   C, D: c[0], c[1] = row g, columns 2q, 2q+1;  c[2], c[3] = row g+8, the same columns
//   tf32 (k = 8):   a[0..3] = A[g][q], A[g+8][q], A[g][q+4], A[g+8][q+4];  b[0..1] = B[q][g], B[q+4][g]
//   16 bits (k = 16), two to a register, the lower column or row in the lower half:
//     a[0..3] = A[g][2q..], A[g+8][2q..], A[g][2q+8..], A[g+8][2q+8..];  b[0..1] = B[2q..][g], B[2q+8..][g]
#pragma once
#if NETC_GPU
#define NETC_MMA(name, shape_and_types)                                                                         \
  DEVICE void name(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], const float (&c)[4]) {        \
    asm("mma.sync.aligned." shape_and_types " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"        \
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])                                                        \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),    \
          "f"(c[3]));                                                                                           \
  }
NETC_MMA(mma_m16n8k8_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")    // sm_80
NETC_MMA(mma_m16n8k16_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")  // sm_80
NETC_MMA(mma_m16n8k16_fp16, "m16n8k16.row.col.f32.f16.f16.f32")    // sm_80
#undef NETC_MMA

// Loads COUNT (1, 2 or 4) matrices of 8 x 8 numbers of 16 bits from shared memory. Lanes 8i..8i+7 give the addresses
// of matrix i's rows, each a multiple of 16; register i of a lane then holds row g, columns 2q and 2q+1 of matrix i,
// or with TRANSPOSED rows 2q and 2q+1 of column g.
template <int COUNT, bool TRANSPOSED>
DEVICE void ldmatrix(unsigned (&r)[COUNT], const void* row) {
  const unsigned p = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (COUNT == 1) {
    if constexpr (TRANSPOSED)
      asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(p) : "memory");
    else
      asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(p) : "memory");
  } else if constexpr (COUNT == 2) {
    if constexpr (TRANSPOSED)
      asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                   : "=r"(r[0]), "=r"(r[1]) : "r"(p) : "memory");
    else
      asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                   : "=r"(r[0]), "=r"(r[1]) : "r"(p) : "memory");
  } else {
    static_assert(COUNT == 4, "1, 2 or 4 matrices");
    if constexpr (TRANSPOSED)
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(p) : "memory");
    else
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(p) : "memory");
  }
}
#else
#include "emulated_mma.cuh"
#endif
