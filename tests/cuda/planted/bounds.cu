// Kernels that touch memory they may not. The line of each bug ends in "BUG" and the kernel's name.
#include "netc.cuh"

extern "C" __global__ void reads_past_end(int n, const float* x, float* y) {
  const int i = threadIdx.x;
  if (i <= n - 1) y[i] = x[i + 1];  // BUG reads_past_end
}
extern "C" __global__ void writes_past_end(int n, float* y) {
  if (threadIdx.x == 3) y[n] = 1;  // BUG writes_past_end
}
extern "C" __global__ void reads_before_start(const float* x, float* y) {
  y[threadIdx.x] = x[int(threadIdx.x) - 1];  // BUG reads_before_start
}
extern "C" __global__ void reads_past_static_shared(int n, float* y) {
  __shared__ float low[32];
  __shared__ float high[32];
  low[threadIdx.x] = 1;
  high[threadIdx.x] = 2;
  __syncthreads();
  const float* start = low;
  y[threadIdx.x] = start[threadIdx.x + n] + high[threadIdx.x];  // BUG reads_past_static_shared
}
extern "C" __global__ void writes_past_dynamic_shared(int n, float* y) {
  DYNAMIC_SHARED(float, all);
  all[threadIdx.x + n] = 1;  // BUG writes_past_dynamic_shared
  y[threadIdx.x] = all[threadIdx.x + n];
}
// The offset leads into memory that is alive, and not this launch's.
extern "C" __global__ void reads_other_buffer(int64 offset, const float* x, float* y) {
  y[threadIdx.x] = x[threadIdx.x + offset];  // BUG reads_other_buffer
}
extern "C" __global__ void reads_null(const float* x, float* y) {
  y[threadIdx.x] = x[threadIdx.x];  // BUG reads_null
}
extern "C" __global__ void reads_address(uint64 address, float* y) {
  y[threadIdx.x] = reinterpret_cast<const float*>(address)[threadIdx.x];  // BUG reads_address
}
extern "C" __global__ void loads_misaligned(const float* x, float* y) {
  const auto four = load_packed<4>(x + 1);  // BUG loads_misaligned
  if (threadIdx.x == 0) y[0] = four.v[0] + four.v[1] + four.v[2] + four.v[3];
}
extern "C" __global__ void reads_other_threads_local(float* y) {
  __shared__ const float* shared_pointer;
  float mine[2] = {float(threadIdx.x), 1};
  if (threadIdx.x == 0) shared_pointer = mine;
  __syncthreads();
  y[threadIdx.x] = shared_pointer[threadIdx.x % 2];  // BUG reads_other_threads_local
  __syncthreads();
}
