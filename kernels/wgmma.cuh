// Products of matrices in shared memory by four warps together (wgmma, sm_90a): D[64][N] += A[64][k] B[k][N], N 128 or
// 256, where rows of A and columns of B are rows of 128 bytes of a tile, of which a product takes 32: 8 floats, whose
// lower bits are ignored as for tf32, or 16 numbers of 16 bits.
//
// Where a row's 16 bytes lie in its tile says `wgmma_offset`; a tile begins at a multiple of 1024 bytes. With
// g = lane / 4 and q = lane % 4 a lane of warp i holds d[4 j + 2 h + e] = row 16 i + g + 8 h, column 8 j + 2 q + e.
// Order: threads write the tiles, each calls wgmma_publish, then a barrier; wgmma_begin, the products, wgmma_commit;
// the sums are there, and the tiles may be written again, when wgmma_wait<N> has left at most N later groups. What bulk
// copies bring needs no wgmma_publish: they and the products see memory in the same way (the async proxy).
#pragma once

constexpr int WGMMA_ROW_BYTES = 128, WGMMA_TILE_ALIGNMENT = 1024;

// Where byte `byte`, a multiple of 16, of a row lies in its tile.
DEVICE int wgmma_offset(int row, int byte) { return row * WGMMA_ROW_BYTES + (byte ^ row % 8 * 16); }

#if NETC_GPU
// What this thread has written to shared memory, copies it has waited for among it, becomes visible to products.
DEVICE void wgmma_publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
DEVICE void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int GROUPS_LEFT>
DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(GROUPS_LEFT) : "memory");
}
// A matrix descriptor: address, 1024 bytes from eight rows to the next, rows of 128 bytes that are mixed.
DEVICE uint64 wgmma_descriptor(const void* tile) {
  const uint64 address = static_cast<unsigned>(__cvta_generic_to_shared(tile)) >> 4 & 0x3fffu;
  return address | 1ull << 16 | 1024ull >> 4 << 32 | 1ull << 62;
}
#define NETC_SUMS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define NETC_SUMS_16(i) NETC_SUMS_4(i), NETC_SUMS_4(i + 4), NETC_SUMS_4(i + 8), NETC_SUMS_4(i + 12)
#define NETC_SUMS_64(i) NETC_SUMS_16(i), NETC_SUMS_16(i + 16), NETC_SUMS_16(i + 32), NETC_SUMS_16(i + 48)
#define NETC_FIRST_64                                                                                                \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,"                       \
  "%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"                     \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define NETC_NEXT_64                                                                                                 \
  "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,"                     \
  "%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,"                     \
  "%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,"                       \
  "%126,%127"
#define NETC_WGMMA_OF(name, count, list, a_operand, b_operand, one, shape_and_types, transposes, ...)               \
  DEVICE void name(float (&d)[count], uint64 a, uint64 b) {                                                         \
    asm volatile("{.reg .pred adds; setp.ne.b32 adds, " one ", 0; wgmma.mma_async.sync.aligned." shape_and_types    \
                 " {" list "}, " a_operand ", " b_operand ", adds, 1, 1" transposes ";}"                            \
                 : __VA_ARGS__                                                                                      \
                 : "l"(a), "l"(b), "r"(1));                                                                         \
  }
#define NETC_WGMMA(name, depth_and_types, transposes)                                                               \
  NETC_WGMMA_OF(name, 64, NETC_FIRST_64, "%64", "%65", "%66", "m64n128" depth_and_types, transposes,                \
                NETC_SUMS_64(0))                                                                                    \
  NETC_WGMMA_OF(name, 128, NETC_FIRST_64 "," NETC_NEXT_64, "%128", "%129", "%130", "m64n256" depth_and_types,       \
                transposes, NETC_SUMS_64(0), NETC_SUMS_64(64))
NETC_WGMMA(wgmma_tf32, "k8.f32.tf32.tf32", "")
NETC_WGMMA(wgmma_bf16, "k16.f32.bf16.bf16", ", 0, 0")
NETC_WGMMA(wgmma_fp16, "k16.f32.f16.f16", ", 0, 0")
#undef NETC_WGMMA
#undef NETC_WGMMA_OF
#undef NETC_NEXT_64
#undef NETC_FIRST_64
#undef NETC_SUMS_64
#undef NETC_SUMS_16
#undef NETC_SUMS_4

// The product of the 32 bytes from byte 0, 32, 64 or 96 of each row on; T is float, bf16 or fp16, SUMS half of N.
template <class T, int SUMS>
DEVICE void wgmma_m64(float (&d)[SUMS], const T* a_tile, const T* b_tile, int byte) {
  const uint64 a = wgmma_descriptor(a_tile) + (byte >> 4), b = wgmma_descriptor(b_tile) + (byte >> 4);
  if constexpr (sizeof(T) == 4)
    wgmma_tf32(d, a, b);
  else if constexpr (T::IS_BF16)
    wgmma_bf16(d, a, b);
  else
    wgmma_fp16(d, a, b);
}
#else
#include "emulated_wgmma.cuh"
#endif
