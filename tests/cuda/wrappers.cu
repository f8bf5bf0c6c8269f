// Kernels that show each wrapper of netc.cuh, for comparison with NumPy (and of a GPU with the emulator).
#include "netc.cuh"
#include "bulk_copy.cuh"
#include "fragments.cuh"
#include "wgmma.cuh"

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
// D[16][16] = A[16][16] B[16][16], by one warp, from tiles in which k lies along a row or each step is a row.
template <class T, bool A_K_IS_ROW, bool B_K_IS_ROW>
__global__ void __launch_bounds__(32) multiply_fragments(const float* a, const float* b, float* d) {
  constexpr int PITCH = 16 + 16 / sizeof(T);
  __shared__ __align__(16) T a_tile[16 * PITCH], b_tile[16 * PITCH];
  const int lane = threadIdx.x, g = lane / 4, q = lane % 4;
  for (int i = lane; i < 256; i += 32) {  // element (row, k) of A and (k, column) of B
    a_tile[A_K_IS_ROW ? i % 16 * PITCH + i / 16 : i / 16 * PITCH + i % 16] = from_float<T>(a[i]);
    b_tile[B_K_IS_ROW ? i / 16 * PITCH + i % 16 : i % 16 * PITCH + i / 16] = from_float<T>(b[i]);
  }
  __syncwarp();
  float sums[2][4] = {};
  for (int k = 0; k < 16; k += 32 / sizeof(T)) {
    unsigned x[4], y[2][2];
    load_a_fragment<A_K_IS_ROW>(x, a_tile, PITCH, 0, k);
    load_b_fragments<B_K_IS_ROW>(y[0], y[1], b_tile, PITCH, 0, k);
    for (int j = 0; j < 2; ++j) {
      if constexpr (sizeof(T) == 4)
        mma_m16n8k8_tf32(sums[j], x, y[j], sums[j]);
      else
        mma_m16n8k16<T>(sums[j], x, y[j]);
    }
  }
  for (int j = 0; j < 2; ++j)
    for (int e = 0; e < 4; ++e) d[(g + e / 2 * 8) * 16 + j * 8 + 2 * q + e % 2] = sums[j][e];
}
template <int SUMS>
DEVICE void store_products(const float (&sums)[SUMS], float* d) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;
#pragma unroll
  for (int i = 0; i < SUMS; ++i)
    d[(warp * 16 + g + i / 2 % 2 * 8) * (2 * SUMS) + i / 4 * 8 + 2 * q + i % 2] = sums[i];
}
// D[64][N] = A[64][k] B[k][N] for rows of 128 bytes, by four warps; B is given as N rows. IMPATIENT threads clear A
// before its products are known to be done.
template <class T, int N, bool IMPATIENT>
__global__ void __launch_bounds__(128) multiply_by_four_warps(const float* a, const float* b, float* d) {
  constexpr int K = WGMMA_ROW_BYTES / sizeof(T);
  __shared__ __align__(1024) T a_tile[64 * K], b_tile[N * K];
  for (int i = threadIdx.x; i < (64 + N) * K; i += 128) {
    const bool of_a = i < 64 * K;
    const int row = of_a ? i / K : i / K - 64, byte = i % K * sizeof(T);
    const int at = (wgmma_offset(row, byte / 16 * 16) + byte % 16) / sizeof(T);
    (of_a ? a_tile : b_tile)[at] = from_float<T>(of_a ? a[i] : b[i - 64 * K]);
  }
  float sums[N / 2] = {};
  wgmma_publish();
  __syncthreads();
  wgmma_begin();
  wgmma_m64(sums, a_tile, b_tile, 0);
  wgmma_m64(sums, a_tile, b_tile, 32);
  wgmma_commit();
  wgmma_m64(sums, a_tile, b_tile, 64);
  wgmma_m64(sums, a_tile, b_tile, 96);
  wgmma_commit();
  wgmma_wait<1>();
  if (IMPATIENT) a_tile[threadIdx.x] = T{};
  wgmma_wait<0>();
  store_products(sums, d);
}
// The same, of tiles that one thread brings as they are given.
template <class T, int N>
__global__ void __launch_bounds__(128) multiply_brought_tiles(const T* a, const T* b, float* d) {
  constexpr int K = WGMMA_ROW_BYTES / sizeof(T);
  __shared__ __align__(1024) T a_tile[64 * K], b_tile[N * K];
  __shared__ MBarrier full;
  if (threadIdx.x == 0) {
    mbarrier_init(&full, 1);
    mbarrier_publish();
    mbarrier_expect(&full, sizeof a_tile + sizeof b_tile);
    bulk_copy(a_tile, a, sizeof a_tile, &full);
    bulk_copy(b_tile, b, sizeof b_tile, &full);
  }
  float sums[N / 2] = {};
  __syncthreads();
  mbarrier_wait(&full, 0);
  wgmma_begin();
#pragma unroll
  for (int byte = 0; byte < WGMMA_ROW_BYTES; byte += 32) wgmma_m64(sums, a_tile, b_tile, byte);
  wgmma_commit();
  wgmma_wait<0>();
  store_products(sums, d);
}
template <class T>
__global__ void round_pairs(int pairs, const float* x, unsigned* y) {
  const int i = threadIdx.x;
  if (i < pairs) y[i] = narrow_pair<T>(x[2 * i], x[2 * i + 1]);
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
