// Kernels whose result hangs on which thread comes first.
#include "netc.cuh"

extern "C" __global__ void misses_barrier(float* y) {
  __shared__ float all[64];
  all[threadIdx.x] = threadIdx.x;
  y[threadIdx.x] = all[63 - threadIdx.x];  // BUG misses_barrier
}
// The second round overwrites what slower threads still read of the first.
extern "C" __global__ void misses_second_barrier(float* y) {
  __shared__ float all[64];
  float sum = 0;
  for (int round = 0; round < 2; ++round) {
    all[threadIdx.x] = round;  // BUG misses_second_barrier
    __syncthreads();
    sum += all[63 - threadIdx.x];
  }
  y[threadIdx.x] = sum;
}
extern "C" __global__ void relies_on_lock_step(float* y) {
  __shared__ volatile float all[32];
  all[threadIdx.x] = threadIdx.x;
  y[threadIdx.x] = all[threadIdx.x ^ 1];  // BUG relies_on_lock_step
}
extern "C" __global__ void exchanges_in_global(float* scratch, float* y) {
  scratch[threadIdx.x] = threadIdx.x;
  y[threadIdx.x] = scratch[63 - threadIdx.x];  // BUG exchanges_in_global
}
extern "C" __global__ void all_blocks_write(float* y) {
  y[threadIdx.x] = blockIdx.x;  // BUG all_blocks_write
}
extern "C" __global__ void adds_plainly(float* y) {
  atomicAdd(y, 1.0f);
  __syncwarp();
  if (blockIdx.x == 1 && threadIdx.x == 5) *y += 1;  // BUG adds_plainly
}
// A wait is for this thread's own copies alone.
extern "C" __global__ void waits_alone(float* x, float* y) {
  __shared__ float all[64];
  x[threadIdx.x] = threadIdx.x;
  cp_async<4>(&all[threadIdx.x], x + threadIdx.x);
  cp_async_commit();
  cp_async_wait<0>();
  y[threadIdx.x] = all[63 - threadIdx.x];  // BUG waits_alone
}
// What the ones above should have been: no finding.
extern "C" __global__ void is_right(float* scratch, float* y) {
  __shared__ float all[64];
  __shared__ float of_warp[64];
  float sum = 0;
  for (int round = 0; round < 2; ++round) {
    all[threadIdx.x] = round;
    __syncthreads();
    sum += all[63 - threadIdx.x];
    __syncthreads();
  }
  of_warp[threadIdx.x] = threadIdx.x;
  __syncwarp();
  sum += of_warp[threadIdx.x ^ 1];
  scratch[blockIdx.x * 64 + threadIdx.x] = sum;
  __syncthreads();
  atomicAdd(y, scratch[blockIdx.x * 64 + 63 - threadIdx.x]);
}
