// Sums of tiles that bulk copies bring, right and with mistakes. The line of each mistake ends in "BUG" and its name.
#include "netc.cuh"
#include "bulk_copy.cuh"

enum Bug {
  NONE, NO_WAIT, WRONG_PARITY, ONE_WAITS, NO_ARRIVAL, EARLY_ARRIVAL, NO_FREE_WAIT, TOO_FEW_BYTES, TOO_MANY_BYTES,
  NO_EXPECTATION, TWO_ARRIVALS, ONE_COPY_MORE, NOT_INITIALISED, NO_BARRIER, MISALIGNED, PAST_END
};
constexpr int TILE = 64, STAGES = 2, BYTES = TILE * 4;

// Threads 0 to TILE - 1 add up, one more brings the tiles, STAGES ahead.
template <int BUG>
__global__ void sum_tiles(int tiles, const float* x, float* y) {
  alignas(16) __shared__ float stages[STAGES][TILE];
  __shared__ MBarrier full[STAGES], empty[STAGES];
  const int t = threadIdx.x;
  if (t == 0 && BUG != NOT_INITIALISED) {
    for (int s = 0; s < STAGES; ++s) {
      mbarrier_init(&full[s], 1);
      mbarrier_init(&empty[s], TILE);
    }
    mbarrier_publish();
  }
  if (BUG != NO_BARRIER) __syncthreads();
  if (t > TILE) return;
  if (t == TILE) {
    const int offset = BUG == MISALIGNED ? 1 : BUG == PAST_END ? TILE : 0;
    const int expected = BYTES + (BUG == TOO_FEW_BYTES ? -16 : BUG == TOO_MANY_BYTES ? 16 : 0);
    for (int k = 0; k < tiles + (BUG == ONE_COPY_MORE); ++k) {
      const int s = k % STAGES;
      if (BUG != NO_FREE_WAIT) mbarrier_wait(&empty[s], k / STAGES % 2 ^ 1);  // BUG NO_ARRIVAL
      if (BUG == NO_EXPECTATION) mbarrier_arrive(&full[s]);
      else mbarrier_expect(&full[s], expected);
      if (BUG == TWO_ARRIVALS) mbarrier_arrive(&full[s]);  // BUG TWO_ARRIVALS
      bulk_copy(stages[s], x + k % tiles * TILE + offset, BYTES, &full[s]);  // BUG MISALIGNED PAST_END EARLY_ARRIVAL ONE_COPY_MORE
    }
    return;
  }
  float sum = 0;
  for (int k = 0; k < tiles; ++k) {
    const int s = k % STAGES;
    if (BUG != NO_WAIT && (BUG != ONE_WAITS || t == 0))
      mbarrier_wait(&full[s], k / STAGES % 2 ^ (BUG == WRONG_PARITY));  // BUG TOO_FEW_BYTES TOO_MANY_BYTES NO_ARRIVAL
    if (BUG == EARLY_ARRIVAL) mbarrier_arrive(&empty[s]);
    sum += stages[s][t];  // BUG NO_WAIT WRONG_PARITY ONE_WAITS NO_EXPECTATION
    if (BUG != NO_ARRIVAL && BUG != EARLY_ARRIVAL) mbarrier_arrive(&empty[s]);
  }
  y[t] = sum;
}

// One thread waits, and a barrier of all of them orders what they read after it.
extern "C" __global__ void one_waits_for_all(const float* x, float* y) {
  alignas(16) __shared__ float tile[TILE];
  __shared__ MBarrier full;
  const int t = threadIdx.x;
  if (t == 0) {
    mbarrier_init(&full, 1);
    mbarrier_publish();
    mbarrier_expect(&full, BYTES);
    bulk_copy(tile, x, BYTES / 2, &full);
    bulk_copy(tile + TILE / 2, x + TILE / 2, BYTES / 2, &full);
    mbarrier_wait(&full, 0);
  }
  __syncthreads();
  y[t] = tile[t];
}

// The one thread that has waited ends before the barrier that should tell the others.
extern "C" __global__ void waiter_leaves(const float* x, float* y) {
  alignas(16) __shared__ float tile[TILE];
  __shared__ MBarrier full;
  const int t = threadIdx.x;
  if (t == 0) {
    mbarrier_init(&full, 1);
    mbarrier_publish();
    mbarrier_expect(&full, BYTES);
    bulk_copy(tile, x, BYTES, &full);
    mbarrier_wait(&full, 0);
    return;
  }
  __syncthreads();
  y[t] = tile[t];  // BUG waiter_leaves
}

// The phase expects the first half only: what comes after it is another copy's.
extern "C" __global__ void expects_half(const float* x, float* y) {
  __shared__ MBarrier full;
  alignas(16) __shared__ float tile[TILE];
  const int t = threadIdx.x;
  if (t == 0) {
    mbarrier_init(&full, 1);
    mbarrier_publish();
    mbarrier_expect(&full, BYTES / 2);
    bulk_copy(tile, x, BYTES / 2, &full);
    bulk_copy(tile + TILE / 2, x + TILE / 2, BYTES / 2, &full);  // BUG landed expects_half
    mbarrier_wait(&full, 0);
  }
  __syncthreads();
  y[t] = tile[t];  // BUG expects_half
  if (t == 0) {
    mbarrier_expect(&full, BYTES / 2);
    mbarrier_wait(&full, 1);
  }
}

// What a warp has written, one lane hands to another warp after a __syncwarp.
template <bool SYNCHRONISED>
__global__ void one_arrives_for_its_warp(float* y) {
  __shared__ float numbers[32];
  __shared__ MBarrier written;
  const int t = threadIdx.x;
  if (t == 0) {
    mbarrier_init(&written, 1);
    mbarrier_publish();
  }
  __syncthreads();
  if (t < 32) {
    numbers[t] = t;
    if (SYNCHRONISED) __syncwarp();
    if (t == 0) mbarrier_arrive(&written);
  } else {
    mbarrier_wait(&written, 0);
    y[t - 32] = numbers[t - 32];  // BUG one_arrives_for_its_warp
  }
}
