// Convolution on the tensor cores of sm_90a over channels last, forward and backward to the bottom: conv_last.cu's
// sums, by products that four warps make together of tiles in shared memory.
//
// Layout: images and results as in conv_last.cu, of numbers that have been rounded. Filters are packed as (phases,
// groups, blocks of BN output channels, steps) tiles of BN rows of 128 bytes, each as it must lie in shared memory. A
// step is 8 of the pieces that the sum runs over, which are those of a phase's taps, one tap after another.
// A tile of filters is one contiguous copy (cp.async.bulk) that one thread asks for, of bytes that are already in the
// order in which wgmma looks for them. A tensor map, which the driver would have to encode on the host for an address,
// could mix them on the way; the packing, which must round and turn the filters anyway, does it for nothing. Cells are
// gathered, with zeros around the images, by copies of 16 bytes (cp.async).
// Mapping: one block for BM cells x BN output channels; blockIdx as in conv_last.cu. Four warps compute half of its
// cells, the first four warps that multiply the upper half.
// Bound: 2 N K P Q C R S FLOPs; a block copies BM + BN pieces for 2 BM BN products of a piece's numbers.
#include "conv_last_block.cuh"
#include "bulk_copy.cuh"
#include "wgmma.cuh"

constexpr int STEP = 8, ROW = STEP * PIECE_BYTES;
static_assert(ROW == WGMMA_ROW_BYTES);

// A block's tiles of filters, and what one thread does to bring one of them.
template <int BN>
struct FilterTiles {
  static constexpr int BYTES = BN * ROW;
  const char* first;
  // `pitch`: the steps that there is room for in each phase.
  template <class T>
  DEVICE FilterTiles(const T* filters, int rows, int pitch) {
    const int across = divide_up(rows, BN);
    const int64 number = int64(blockIdx.z) * across + blockIdx.x % across;
    first = reinterpret_cast<const char*>(filters) + number * pitch * BYTES;
  }
  DEVICE void bring(char* tile, int step, MBarrier* full) const {
    mbarrier_expect(full, BYTES);
    bulk_copy(tile, first + int64(step) * BYTES, BYTES, full);
  }
};

// The stages' memory: they begin at a multiple of what wgmma wants, and for the rest of that there is room.
DEVICE char* align_stages(char* raw) {
  return raw + (WGMMA_TILE_ALIGNMENT - reinterpret_cast<uint64>(raw) % WGMMA_TILE_ALIGNMENT) % WGMMA_TILE_ALIGNMENT;
}
DEVICE int place_in_stage(int row, int piece) { return wgmma_offset(row, piece * PIECE_BYTES); }

// What one of THREADS threads that copy BM cells knows of its own, in registers: reading windows again for every step
// would keep a warp waiting between its copies.
template <int BM, int THREADS>
struct Cells {
  static constexpr int COUNT = BM * STEP / THREADS;
  Window windows[COUNT];
  Walk walk;
  int place;
  DEVICE Cells(const Window* all, int pieces, int taps_wide)
      : walk{pieces, taps_wide}, place(place_in_stage(threadIdx.x / STEP, threadIdx.x % STEP)) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) windows[i] = all[(threadIdx.x + i * THREADS) / STEP];
    walk.advance(threadIdx.x % STEP);
  }
  // Begins the copies of the next step.
  template <class T, class Tiles>
  DEVICE void copy(char* stage, const T* input, const Source& from, const Tiles& block) {
    auto window_of = [&](int i) { return windows[i]; };
    copy_cells<BM, STEP, THREADS>(stage + place, input, window_of, walk, from, block);
    walk.advance(STEP);
  }
};

// Begins a step's products: of a half of the block's BM cells, 64 at once, and all its channels.
template <class T, int BM, int TM, int TN>
DEVICE void begin_products(float (&sums)[TM][TN][4], const char* stage, int half) {
  static_assert(TM * 128 == BM);
  const T* cells = reinterpret_cast<const T*>(stage + half * (BM / 2 * ROW));
  const T* filters = reinterpret_cast<const T*>(stage + BM * ROW);
  wgmma_begin();
#pragma unroll
  for (int byte = 0; byte < ROW; byte += 32)
#pragma unroll
    for (int i = 0; i < TM; ++i)
      wgmma_m64(reinterpret_cast<float(&)[TN * 4]>(sums[i]), cells + i * (64 * ROW / sizeof(T)), filters, byte);
  wgmma_commit();
}

// T: float (tf32), bf16 or fp16. All threads copy cells, and two blocks of 128 channels fit on a processor: while one
// waits or stores, the other multiplies. While the products of a step are made, those of the one before may still be
// under way, and the step after it is being copied.
template <class T>
__global__ void __launch_bounds__(256, 2)
conv_last_wgmma(SIZES, int pitch, const T* __restrict__ input, const T* __restrict__ filters, ENDING,
              float* __restrict__ output) {
  constexpr int BM = 128, BN = 128, THREADS = 256, STAGES = 3, STAGE = (BM + BN) * ROW;
  DYNAMIC_SHARED(char, raw);
  char* shared = align_stages(raw);
  __shared__ Window windows[BM];
  __shared__ int64 targets[BM];
  __shared__ MBarrier full[STAGES];
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; ++i) mbarrier_init(&full[i], 1);
    mbarrier_publish();
  }
  MAKE_BLOCK;
  const FilterTiles<BN> tiles(filters, rows, pitch);
  const int warp = threadIdx.x / 32, steps = divide_up(block.high.taps * block.wide.taps * pieces, STEP);
  Cells<BM, THREADS> cells(windows, pieces, block.wide.taps);
  Turn<STAGES> copied, multiplied;
  float sums[1][BN / 8][4] = {};

  auto copy_step = [&](int step) {
    if (step < steps) {
      char* stage = shared + copied.stage * STAGE;
      if (threadIdx.x == 0) tiles.bring(stage + BM * ROW, step, &full[copied.stage]);
      cells.copy(stage, input, from, block);
      copied.advance();
    }
    cp_async_commit();
  };

  copy_step(0);
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<0>();
    wgmma_publish();
    mbarrier_wait(&full[multiplied.stage], multiplied.parity);
    __syncthreads();  // the cells are there for all, and the step before the last has been multiplied by all
    begin_products<T, BM>(sums, shared + multiplied.stage * STAGE, warp / 4);
    multiplied.advance();
    copy_step(step + 1);
    wgmma_wait<1>();
  }
  wgmma_wait<0>();
  const Ending ending{bias, factor, residual, slope};
  store_sums(sums, block, of, to, targets, warp * 16, 0, ending, output);
}

// The same for tiles twice as large, and with warps that only copy: a block has a processor for itself, and eight warps
// that only wait and multiply. The first four copy; a step's cells count as there when the next BEHIND steps are being
// copied. `full` tells that a stage can be multiplied, `empty` that it has been.
template <class T, int BM, int BN>
__global__ void __launch_bounds__(384, 1)
conv_last_fed(SIZES, int pitch, const T* __restrict__ input, const T* __restrict__ filters, ENDING,
              float* __restrict__ output) {
  constexpr int THREADS = 384, FEEDERS = 128, STAGES = 4, BEHIND = 2, STAGE = (BM + BN) * ROW;
  static_assert(BEHIND + 2 <= STAGES, "a stage is free when the products of the next one have begun");
  DYNAMIC_SHARED(char, raw);
  char* shared = align_stages(raw);
  __shared__ Window windows[BM];
  __shared__ int64 targets[BM];
  __shared__ MBarrier full[STAGES], empty[STAGES];
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; ++i) {
      mbarrier_init(&full[i], FEEDERS / 32 + 1);  // each copying warp, and who asks for the filters
      mbarrier_init(&empty[i], (THREADS - FEEDERS) / 32);
    }
    mbarrier_publish();
  }
  MAKE_BLOCK;
  const int lane = threadIdx.x % 32, steps = divide_up(block.high.taps * block.wide.taps * pieces, STEP);

  if (threadIdx.x < FEEDERS) {
    const FilterTiles<BN> tiles(filters, rows, pitch);
    Cells<BM, FEEDERS> cells(windows, pieces, block.wide.taps);
    Turn<STAGES> copied, arrived;
    for (int step = 0; step < steps + BEHIND; ++step) {
      if (step < steps) {
        char* stage = shared + copied.stage * STAGE;
        mbarrier_wait(&empty[copied.stage], copied.parity ^ 1);
        if (threadIdx.x == 0) tiles.bring(stage + BM * ROW, step, &full[copied.stage]);
        cells.copy(stage, input, from, block);
        copied.advance();
      }
      cp_async_commit();  // also where nothing was copied: the waits count groups
      if (step < BEHIND) continue;
      cp_async_wait<BEHIND>();
      wgmma_publish();
      __syncwarp();
      if (lane == 0) mbarrier_arrive(&full[arrived.stage]);
      arrived.advance();
    }
    return;
  }

  const int warp = threadIdx.x / 32 - FEEDERS / 32;
  Turn<STAGES> begun, done;
  float sums[BM / 128][BN / 8][4] = {};
  for (int step = 0; step < steps; ++step) {
    mbarrier_wait(&full[begun.stage], begun.parity);
    begin_products<T, BM>(sums, shared + begun.stage * STAGE, warp / 4);
    begun.advance();
    wgmma_wait<1>();
    if (step == 0) continue;
    __syncwarp();
    if (lane == 0) mbarrier_arrive(&empty[done.stage]);
    done.advance();
  }
  wgmma_wait<0>();
  const Ending ending{bias, factor, residual, slope};
  store_sums<64>(sums, block, of, to, targets, warp / 4 * (BM / 2) + warp % 4 * 16, 0, ending, output);
}

// Packs filters w into tiles: `rows` output channels and `channels` of each group, whose elements in w lie row_stride
// and channel_stride apart, and the taps side by side. A thread packs a piece of a row for every tap of its phase; a
// block has STEP neighbouring pieces of its rows, and blockIdx.z is the convolution's. Bound: one pass over the filters
// and the tiles, a small part of the whole.
template <class T, int BN>
__global__ void __launch_bounds__(256)
pack_filter_tiles(int rows, int channels, int pieces, int r, int s, int stride_h, int stride_w, int pad_h, int pad_w,
                  int dilation_h, int dilation_w, int groups, bool backward, int row_stride, int channel_stride,
                  int pitch, const float* __restrict__ w, T* __restrict__ filters) {
  constexpr int TILE = BN * ROW;
  const int phase = blockIdx.z / groups, group = blockIdx.z % groups, deep = divide_up(pieces, STEP);
  const Axis high = backward ? backward_axis(1, 1, r, stride_h, pad_h, dilation_h, phase / stride_w)
                             : forward_axis(1, 1, r, stride_h, pad_h, dilation_h);
  const Axis wide = backward ? backward_axis(1, 1, s, stride_w, pad_w, dilation_w, phase % stride_w)
                             : forward_axis(1, 1, s, stride_w, pad_w, dilation_w);
  const int taps = high.taps * wide.taps, terms = taps * pieces;
  const int row = blockIdx.x / deep * (256 / STEP) + threadIdx.x / STEP, place = threadIdx.x % STEP;
  const int piece = blockIdx.x % deep * STEP + place;
  const int64 tile = (int64(blockIdx.z) * divide_up(rows, BN) + row / BN) * pitch;
  char* tiles = reinterpret_cast<char*>(filters) + tile * TILE;
  auto store_term = [&](int term, const float(&numbers)[PIECE<T>]) {
    const int64 step = term / STEP;
    store_piece(reinterpret_cast<T*>(tiles + step * TILE + place_in_stage(row % BN, term % STEP)), numbers);
  };
  if (piece == place && terms % STEP != 0 && place >= terms % STEP)  // what fills up the last step
    store_term(terms / STEP * STEP + place, {});
  if (piece >= pieces) return;
  const float* source = w + int64(group) * rows * channels * (r * s) + int64(row) * row_stride;
  for (int tap = 0; tap < taps; ++tap) {
    const int tap_y = high.tap_first + tap / wide.taps * high.tap_jump;
    const int tap_x = wide.tap_first + tap % wide.taps * wide.tap_jump;
    float numbers[PIECE<T>];
#pragma unroll
    for (int i = 0; i < PIECE<T>; ++i) {
      const int channel = piece * PIECE<T> + i;
      const bool inside = row < rows && channel < channels;
      numbers[i] = inside ? source[int64(channel) * channel_stride + tap_y * s + tap_x] : 0.0f;
    }
    store_term(tap * pieces + piece, numbers);
  }
}
