// Products of tiles that a warp of their own brings, cells by cp.async and filters by bulk copies, right and with
// mistakes. The line of each mistake ends in "BUG" and its name.
#include "netc.cuh"
#include "bulk_copy.cuh"
#include "stages.cuh"
#include "wgmma.cuh"

enum Bug {
  NONE, NO_FULL_WAIT, WRONG_PARITY, SAME_PARITY, NO_EMPTY_WAIT, EARLY_RELEASE, NO_RELEASE, LATE_RELEASE, NO_COPY_WAIT,
  NO_SYNCWARP, NO_PRODUCT_WAIT, TOO_FEW_BYTES, TOO_MANY_BYTES, NO_EXPECTATION, NO_FILTERS, WRONG_STAGE
};
constexpr int STAGES = 3, BEHIND = 1, ROWS = 64, COLUMNS = 128;
constexpr int A_BYTES = ROWS * WGMMA_ROW_BYTES, B_BYTES = COLUMNS * WGMMA_ROW_BYTES, STAGE = A_BYTES + B_BYTES;

// d[64][128] = sum over steps of a[64][32] b[128][32]^T. a: (steps, 64, 32); b: (steps) tiles as wgmma takes them.
template <int BUG>
__global__ void __launch_bounds__(160) multiply_fed(int steps, const float* a, const float* b, float* d) {
  DYNAMIC_SHARED(char, raw);
  char* shared = raw + (WGMMA_TILE_ALIGNMENT - reinterpret_cast<uint64>(raw) % WGMMA_TILE_ALIGNMENT) % WGMMA_TILE_ALIGNMENT;
  __shared__ MBarrier full[STAGES], empty[STAGES];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; ++i) {
      mbarrier_init(&full[i], 2);
      mbarrier_init(&empty[i], 4);
    }
    mbarrier_publish();
  }
  __syncthreads();

  if (warp == 4) {
    Turn<STAGES> copied, arrived;
    for (int step = 0; step < steps + BEHIND; ++step) {
      if (step < steps) {
        char* stage = shared + copied.stage * STAGE;
        if (BUG != NO_EMPTY_WAIT) mbarrier_wait(&empty[copied.stage], copied.parity ^ 1);  // BUG NO_RELEASE LATE_RELEASE
        if (lane == 0) {
          if (BUG == NO_EXPECTATION) mbarrier_arrive(&full[copied.stage]);
          else mbarrier_expect(&full[copied.stage], B_BYTES + (BUG == TOO_FEW_BYTES ? -16 : BUG == TOO_MANY_BYTES ? 16 : 0));  // BUG NO_EMPTY_WAIT
          char* tile = shared + (BUG == WRONG_STAGE ? (copied.stage + 1) % STAGES : copied.stage) * STAGE + A_BYTES;
          if (BUG != NO_FILTERS) bulk_copy(tile, b + step * (COLUMNS * 32), B_BYTES, &full[copied.stage]);  // BUG EARLY_RELEASE NO_EMPTY_WAIT WRONG_STAGE
        }
        for (int i = lane; i < ROWS * 8; i += 32)
          cp_async<16>(stage + wgmma_offset(i / 8, i % 8 * 16), a + (step * ROWS * 8 + i) * 4);  // BUG EARLY_RELEASE NO_EMPTY_WAIT NO_COPY_WAIT NO_SYNCWARP
        copied.advance();
      }
      cp_async_commit();
      if (step < BEHIND) continue;
      if (BUG != NO_COPY_WAIT) cp_async_wait<BEHIND>();
      wgmma_publish();
      if (BUG != NO_SYNCWARP) __syncwarp();
      if (lane == 0) mbarrier_arrive(&full[arrived.stage]);
      arrived.advance();
    }
    if (BUG == NO_COPY_WAIT) cp_async_wait<0>();
    return;
  }

  Turn<STAGES> begun, done;
  float sums[COLUMNS / 2] = {};
  for (int step = 0; step < steps; ++step) {
    const float* stage = reinterpret_cast<const float*>(shared + begun.stage * STAGE);
    const int parity = BUG == SAME_PARITY ? 0 : begun.parity ^ (BUG == WRONG_PARITY);
    if (BUG != NO_FULL_WAIT) mbarrier_wait(&full[begun.stage], parity);  // BUG TOO_FEW_BYTES TOO_MANY_BYTES NO_FILTERS NO_RELEASE LATE_RELEASE
    wgmma_begin();
    for (int byte = 0; byte < WGMMA_ROW_BYTES; byte += 32)
      wgmma_m64(sums, stage, stage + A_BYTES / 4, byte);  // BUG NO_FULL_WAIT WRONG_PARITY SAME_PARITY NO_COPY_WAIT NO_EXPECTATION WRONG_STAGE EARLY_RELEASE NO_EMPTY_WAIT NO_SYNCWARP NO_PRODUCT_WAIT
    wgmma_commit();
    if (BUG == EARLY_RELEASE && lane == 0) mbarrier_arrive(&empty[begun.stage]);
    begun.advance();
    if (BUG == EARLY_RELEASE || BUG == NO_RELEASE) continue;
    wgmma_wait<BUG == LATE_RELEASE ? STAGES : 1>();
    if (step < (BUG == LATE_RELEASE ? STAGES : 1)) continue;
    __syncwarp();
    if (lane == 0) mbarrier_arrive(&empty[done.stage]);
    done.advance();
  }
  if (BUG != NO_PRODUCT_WAIT) wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < COLUMNS / 2; ++i)
    d[(warp * 16 + lane / 4 + i / 2 % 2 * 8) * COLUMNS + i / 4 * 8 + lane % 4 * 2 + i % 2] = sums[i];
}
