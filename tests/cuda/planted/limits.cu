// Kernels for the limits of a launch, and what fast mode must survive.
#include "netc.cuh"

extern "C" __global__ void __launch_bounds__(64) writes_number(float* y) { y[threadIdx.x] = threadIdx.x; }
extern "C" __global__ void has_much_static_shared(float* y) {
  __shared__ float all[13 * 1024];
  all[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = all[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void has_some_static_shared(float* y) {
  __shared__ float all[1024];
  all[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = all[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void takes_all(int i, unsigned u, int64 q, float f, double d, bool flag, float* y) {
  y[0] = i + u + q + f + float(d) + flag;
}
__device__ float sink(int depth, const float* above) {
  volatile float here[1000];
  for (int i = 0; i < 1000; ++i) here[i] = above[0] + i;
  return depth == 0 ? here[7] : sink(depth - 1, const_cast<const float*>(here)) + here[9];
}
extern "C" __global__ void recurses(int depth, float* y) {
  const float start = 1;
  y[threadIdx.x] = sink(depth, &start);
}
