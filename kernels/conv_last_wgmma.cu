// Convolution on the tensor cores of sm_90a over channels last, forward and backward to the bottom: conv_last.cu's
// sums, by products that four warps make together of tiles in shared memory.
//
// Layout, mapping of blocks, and bound: conv_last.cu's, of numbers that have been rounded. While the products of a step
// are made, those of the one before may still be under way, and the two steps after it are being copied.
#include "conv_last_block.cuh"
#include "wgmma.cuh"

// T: float (tf32), bf16 or fp16. Four warps compute 64 cells x 128 channels.
template <class T>
__global__ void __launch_bounds__(256, 2)
conv_last_wgmma(SIZES, const T* __restrict__ input, const T* __restrict__ filters, const float* __restrict__ bias,
                float slope, float* __restrict__ output) {
  constexpr int BM = 128, BN = 128, THREADS = 256, STAGES = 4, AHEAD = 2, PIECES = 4;
  constexpr int TILE = BM * PIECES * PIECE_BYTES, STAGE = 2 * TILE;
  DYNAMIC_SHARED(char, raw);
  // Tiles begin at multiples of 512 bytes; for the rest of that there is room.
  char* shared = raw + (512 - reinterpret_cast<uint64>(raw) % 512) % 512;
  __shared__ Window windows[BM];
  __shared__ int64 targets[BM];
  MAKE_BLOCK;
  const int warp = threadIdx.x / 32, steps = divide_up(block.high.taps * block.wide.taps * pieces, PIECES);
  Walk walk{pieces, block.wide.taps};
  walk.advance(threadIdx.x % PIECES);
  float sums[1][16][4] = {};

  auto copy_step = [&](int step) {
    if (step < steps) {
      char* stage = shared + step % STAGES * STAGE;
      copy_cells<BM, PIECES, THREADS>(stage, input, windows, walk, from, block);
      copy_filters<BN, PIECES, THREADS>(stage + TILE, filters, walk, of, block);
      walk.advance(PIECES);
    }
    cp_async_commit();  // also where nothing was copied: the waits count groups
  };
  auto begin_products = [&](int step) {
    const T* a_tile = reinterpret_cast<const T*>(shared + step % STAGES * STAGE + warp / 4 * TILE / 2);
    const T* b_tile = reinterpret_cast<const T*>(shared + step % STAGES * STAGE + TILE);
    float(&d)[64] = reinterpret_cast<float(&)[64]>(sums);
    wgmma_begin();
    wgmma_m64n128(d, a_tile, b_tile, 0);
    wgmma_m64n128(d, a_tile, b_tile, 2 * PIECE_BYTES);
    wgmma_commit();
  };

  for (int step = 0; step < AHEAD; ++step) copy_step(step);
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<AHEAD - 1>();
    wgmma_publish();
    __syncthreads();  // the tile is there for all, and all are done with the one that is overwritten next
    begin_products(step);
    copy_step(step + AHEAD);
    wgmma_wait<1>();
  }
  wgmma_wait<0>();
  store_sums(sums, block, of, to, targets, warp * 16, 0, bias, slope, output);
}
