// Convolution on the tensor cores of sm_90a, forward and backward to the bottom: conv_mma.cu's sums, by products that
// four warps make together of tiles in shared memory.
//
// Layout, mapping of blocks, and bound: conv_mma.cu's, with its packed filters. A thread gathers a run of channels for
// one cell and rounds them on the way to shared memory. While a step is computed the next one's numbers are stored, and
// those of the step after it are under way: the filters straight to shared memory, what is gathered to registers.
#include "netc.cuh"
#include "conv_gather.cuh"
#include "wgmma.cuh"

// Copies BM packed rows of a step to their places in a tile.
template <int BM, int THREADS, class T>
DEVICE void copy_filters(T* tile, const T* filters, int64 matrix, const Task& task) {
  constexpr int COPIES = ROW_BYTES / 16;
#pragma unroll
  for (int i = 0; i < BM * COPIES / THREADS; ++i) {
    const int e = i * THREADS + threadIdx.x, row = e / COPIES, byte = e % COPIES * 16;
    const bool wanted = task.row0 + row < task.rows;
    const int64 at = (matrix + task.row0 + row) * (ROW_BYTES / sizeof(T)) + byte / sizeof(T);
    cp_async<16>(tile + wgmma_offset(row, byte) / sizeof(T), wanted ? filters + at : filters, wanted);
  }
}

// 16 bytes of gathered numbers, rounded.
template <class T>
DEVICE Packed<unsigned, 4> round_numbers(const float* numbers) {
  Packed<unsigned, 4> rounded;
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    if constexpr (sizeof(T) == 4)
      rounded.v[e] = to_tf32(numbers[e]);
    else
      rounded.v[e] = narrow_pair<T>(numbers[2 * e], numbers[2 * e + 1]);
  }
  return rounded;
}

// T is float (tf32), bf16 or fp16; TABLE: see TableRow.
template <class T, bool TABLE>
__global__ void __launch_bounds__(256, 2)
conv_wgmma(int images, int channels, int h, int w, int rows, int out_h, int out_w, int r, int s, int stride_h,
           int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w, int groups, bool backward,
           const float* __restrict__ input, const T* __restrict__ filters, const float* __restrict__ bias, float slope,
           float* __restrict__ output) {
  constexpr int BM = 128, BN = 128, THREADS = 256, STAGES = 3, BK = ROW_BYTES / sizeof(T);
  constexpr int TILE = BM * BK, STAGE = 2 * TILE, EACH = BK * BN / THREADS, PER_STORE = 16 / sizeof(T);
  DYNAMIC_SHARED(unsigned char, raw);
  // Tiles begin at multiples of 512 bytes; for the rest of that there is room.
  T* shared = reinterpret_cast<T*>(raw + (512 - reinterpret_cast<uint64>(raw) % 512) % 512);
  Packed<int, 2>* table = reinterpret_cast<Packed<int, 2>*>(shared + STAGES * STAGE);
  const int warp = threadIdx.x / 32, my_column = threadIdx.x % BN;
  const Task task = task_of_block<BM, BN>(images, channels, h, w, rows, out_h, out_w, r, s, stride_h, stride_w, pad_h,
                                          pad_w, dilation_h, dilation_w, groups, backward);
  if (task.column0 >= task.columns()) return;  // a phase may have fewer cells than the first
  const Filters<BK, TABLE> packed(task, r * s);
  const int steps = packed.steps(task), first_channel = threadIdx.x / BN * EACH;
  const Cell cell(task, input, task.column0 + my_column);
  Step next{};
  float gathered[EACH], sums[1][16][4] = {};

  auto gather = [&]() {
    const int first = next.chunk * BK + first_channel;
    if constexpr (TABLE) {
      const int depth = channels * r * s;
      const float* begin = cell.image + cell.at(task, 0, 0);
#pragma unroll
      for (int i = 0; i < EACH; ++i) {
        const TableRow row = unpack_row(load_packed<2>(table[first + i].v));
        gathered[i] = first + i < depth && cell.meets(task, row.down, row.right) ? begin[row.offset] : 0.0f;
      }
    } else {
      const int down = next.tap_y * task.high.tap_step, right = next.tap_x * task.wide.tap_step;
      const int count = cell.meets(task, down, right) ? channels - first : 0;
      const float* source = cell.image + cell.at(task, down, right) + int64(first) * task.in_plane();
#pragma unroll
      for (int i = 0; i < EACH; ++i) gathered[i] = i < count ? source[int64(i) * task.in_plane()] : 0.0f;
    }
  };
  auto fetch = [&](int step) {
    if (step < steps) {
      copy_filters<BM, THREADS>(shared + step % STAGES * STAGE, filters, packed.matrix(task, next, s), task);
      gather();
      next.advance<TABLE>(task);
    }
    cp_async_commit();  // also where nothing was copied: the waits count groups
  };
  auto keep = [&](int step) {
    T* tile = shared + step % STAGES * STAGE + TILE;
#pragma unroll
    for (int i = 0; i < EACH; i += PER_STORE) {
      const int at = wgmma_offset(my_column, (first_channel + i) * sizeof(T)) / sizeof(T);
      store_packed<4>(reinterpret_cast<unsigned*>(tile + at), round_numbers<T>(gathered + i));
    }
  };
  auto begin_products = [&](int step) {
    const T* a_tile = shared + step % STAGES * STAGE + warp / 4 * 64 * BK;
    const T* b_tile = shared + step % STAGES * STAGE + TILE;
    float(&d)[64] = reinterpret_cast<float(&)[64]>(sums);
    wgmma_begin();
    wgmma_m64n128(d, a_tile, b_tile, 0);
    wgmma_m64n128(d, a_tile, b_tile, 32);
    wgmma_commit();
  };

  if constexpr (TABLE) {
    for (int i = threadIdx.x; i < steps * BK; i += THREADS) store_packed<2>(table[i].v, pack_row(table_row(task, i)));
    __syncthreads();
  }
  fetch(0);
  if (steps > 0) keep(0);
  fetch(1);
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<1>();
    wgmma_publish();
    __syncthreads();  // the tiles are there for all, and all are done with those that are overwritten next
    begin_products(step);
    if (step + 1 < steps) keep(step + 1);
    fetch(step + 2);
    wgmma_wait<0>();
  }
  store_sums(sums, task, warp * 16, 0, bias, slope, output);
}
