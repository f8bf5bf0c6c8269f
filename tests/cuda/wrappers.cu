// Kernels that show each wrapper of netc.cuh, for comparison with NumPy (and of a GPU with the emulator).
#include "netc.cuh"

__device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], bf16) {
  mma_m16n8k16_bf16(d, a, b, d);
}
__device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], fp16) {
  mma_m16n8k16_fp16(d, a, b, d);
}
// D[16][8] = A[16][16] B[16][8], by one warp: A by ldmatrix, B (row-major) by its transposed form.
template <class T>
__global__ void __launch_bounds__(32) multiply_matrices(const float* a, const float* b, float* d) {
  __shared__ __align__(16) T a_tile[16][16 + 8];
  __shared__ __align__(16) T b_tile[16][8];
  const int lane = threadIdx.x, g = lane / 4, q = lane % 4;
  for (int i = lane; i < 256; i += 32) a_tile[i / 16][i % 16] = from_float<T>(a[i]);
  for (int i = lane; i < 128; i += 32) b_tile[i / 8][i % 8] = from_float<T>(b[i]);
  __syncwarp();
  unsigned x[4], y[2];
  float sums[4] = {};
  // Matrices 0 to 3: rows 0..7 and 8..15 of the left half, then of the right half.
  ldmatrix<4, false>(x, &a_tile[lane % 16][lane / 16 * 8]);
  ldmatrix<2, true>(y, &b_tile[lane % 16][0]);
  multiply(sums, x, y, T{});
  for (int e = 0; e < 4; ++e) d[(g + e / 2 * 8) * 8 + 2 * q + e % 2] = sums[e];
}
extern "C" __global__ void __launch_bounds__(32) load_one_matrix(const unsigned short* x, unsigned* y) {
  __shared__ __align__(16) unsigned short tile[8][8];
  for (int i = threadIdx.x; i < 64; i += 32) tile[i / 8][i % 8] = x[i];
  __syncwarp();
  unsigned r[1];
  ldmatrix<1, false>(r, &tile[threadIdx.x % 8][0]);
  y[threadIdx.x] = r[0];
}
template <class T>
__global__ void round_trip(int n, const float* x, unsigned short* bits, float* y) {
  const int i = threadIdx.x;
  if (i >= n) return;
  const T narrow = from_float<T>(x[i]);
  bits[i] = narrow.bits;
  y[i] = to_float(narrow);
}
extern "C" __global__ void round_to_tf32(int n, const float* x, float* y) {
  if (int(threadIdx.x) < n) y[threadIdx.x] = __uint_as_float(to_tf32(x[threadIdx.x]) & 0xffffe000u);
}
template <class Word>
__global__ void draw(const Word* counters, Word key_0, Word key_1, Word* y) {
  Philox<Word> counter;
  for (int i = 0; i < 4; ++i) counter.v[i] = counters[4 * threadIdx.x + i];
  const Philox<Word> drawn = philox(counter, key_0, key_1);
  for (int i = 0; i < 4; ++i) y[4 * threadIdx.x + i] = drawn.v[i];
}
// The warp functions, one result of each to a row of 32.
extern "C" __global__ void __launch_bounds__(32) exchange(const int* x, int* y) {
  const int lane = threadIdx.x, value = x[lane];
  const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  int row = 0;
  y[32 * row++ + lane] = __shfl_sync(FULL_WARP, value, 5);
  y[32 * row++ + lane] = __shfl_sync(FULL_WARP, value, 1, 8);
  y[32 * row++ + lane] = __shfl_xor_sync(FULL_WARP, value, 3);
  y[32 * row++ + lane] = __shfl_down_sync(FULL_WARP, value, 4);
  y[32 * row++ + lane] = __shfl_up_sync(FULL_WARP, value, 4);
  y[32 * row++ + lane] = __shfl_down_sync(half, value, 4, 16);
  y[32 * row++ + lane] = __ballot_sync(FULL_WARP, value % 3 == 0);
  y[32 * row++ + lane] = __any_sync(FULL_WARP, value == 7);
  y[32 * row++ + lane] = __all_sync(FULL_WARP, value >= 0);
  y[32 * row++ + lane] = warp_sum(value);
}
extern "C" __global__ void __launch_bounds__(256) count_in_block(const int* x, int* y) {
  const int positive = x[threadIdx.x] > 0;
  const int count = __syncthreads_count(positive), any = __syncthreads_or(positive);
  const int sum = block_sum<256>(positive);
  if (threadIdx.x == 0) {
    y[0] = count;
    y[1] = any;
    y[2] = sum;
  }
  if (positive) atomicMax(y + 3, x[threadIdx.x]);
}
