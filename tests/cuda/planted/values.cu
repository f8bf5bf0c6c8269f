// Kernels that read what nobody wrote, and undefined arithmetic.
#include "netc.cuh"

extern "C" __global__ void reads_unwritten_global(const float* x, float* y) {
  y[threadIdx.x] = x[threadIdx.x] + 1;  // BUG reads_unwritten_global
}
extern "C" __global__ void reads_unwritten_shared(float* y) {
  __shared__ float all[64];
  all[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = all[threadIdx.x + 32];  // BUG reads_unwritten_shared
}
extern "C" __global__ void shifts_too_far(int bits, int* y) {
  y[threadIdx.x] = 1u << bits;  // BUG shifts_too_far
}
extern "C" __global__ void indexes_past_registers(int n, float* y) {
  float few[4] = {0, 1, 2, 3};
  y[threadIdx.x] = few[(threadIdx.x + n) & 7];  // BUG indexes_past_registers
}
extern "C" __global__ void casts_too_large(float x, int* y) {
  y[threadIdx.x] = static_cast<int>(x);  // BUG casts_too_large
}
extern "C" __global__ void overflows(int x, int* y) {
  y[threadIdx.x] = x + int(threadIdx.x);  // BUG overflows
}
extern "C" __global__ void divides_by_zero(int x, int* y) {
  y[threadIdx.x] = 7 / x;  // BUG divides_by_zero
}
