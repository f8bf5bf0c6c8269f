// Kernels whose threads wait for each other in the wrong place, or not long enough.
#include "netc.cuh"

extern "C" __global__ void diverges(float* y) {
  if (threadIdx.x < 16) {
    y[threadIdx.x] = 1;
    __syncthreads();
  } else {
    y[threadIdx.x] = 2;
    __syncthreads();  // BUG diverges
  }
}
extern "C" __global__ void mask_lacks_caller(float* y) {
  y[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, 1.0f, 1);  // BUG mask_lacks_caller
}
extern "C" __global__ void mask_names_ended(float* y) {
  if (threadIdx.x >= 16) return;
  __syncthreads();
  y[threadIdx.x] = __shfl_xor_sync(FULL_WARP, 1.0f, 1);  // BUG mask_names_ended
}
extern "C" __global__ void shuffles_from_outside(float* y) {
  const unsigned mask = threadIdx.x < 16 ? 0x0000ffffu : 0xffff0000u;
  y[threadIdx.x] = __shfl_xor_sync(mask, 1.0f, 16);  // BUG shuffles_from_outside
}
extern "C" __global__ void waits_for_ever(float* y) {
  if (threadIdx.x == 0) __syncthreads();
  else y[threadIdx.x] = __shfl_xor_sync(FULL_WARP, 1.0f, 1);  // BUG waits_for_ever
}

extern "C" __global__ void uses_copy_early(const float* x, float* y) {
  __shared__ float all[64];
  cp_async<4>(&all[threadIdx.x], x + threadIdx.x);
  cp_async_commit();
  y[threadIdx.x] = all[threadIdx.x];  // BUG uses_copy_early
  cp_async_wait<0>();
}
extern "C" __global__ void never_waits(const float* x, float* y) {
  __shared__ float all[64];
  cp_async<4>(&all[threadIdx.x], x + threadIdx.x);  // BUG never_waits
  cp_async_commit();
  y[threadIdx.x] = 1;
}
extern "C" __global__ void copies_misaligned(const float* x, float* y) {
  __shared__ __align__(16) float all[64];
  if (threadIdx.x == 0) cp_async<16>(all, x + 1);  // BUG copies_misaligned
  cp_async_commit();
  cp_async_wait<0>();
  y[threadIdx.x] = 1;
}
