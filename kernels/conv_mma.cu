// Convolution on tensor cores, forward and backward to the bottom, as a matrix product whose right side is gathered.
//
// Layout: bottom (N, C, H, W), top (N, K, P, Q), fp32. The filters are packed first, rounded to what the tensor cores
// take: for each group, chunk of channels and tap a matrix of one row for each output channel, 64 bytes long.
// A step of the sum is one chunk of channels of one tap; the channels of a chunk meet all taps in turn, so that what
// a block gathers is still in the first-level cache when the next tap wants it.
// Mapping: one block for BM output channels x BN cells of the output, over all images; blockIdx.z is the group and,
// backward, the phase: cells whose distance is a multiple of the stride meet the same taps.
// Bound: 2 N K P Q C R S FLOPs; a block gathers BN floats and copies BM packed numbers for 2 BM BN FLOPs.
#include "netc.cuh"
#include "conv_gather.cuh"
#include "fragments.cuh"
#include "stages.cuh"

// Copies BM packed rows of a step to shared memory, `pitch` numbers apart.
template <int BM, int THREADS, class T>
DEVICE void copy_filters(T* tile, int pitch, const T* filters, int64 matrix, const Task& task) {
  constexpr int PER_COPY = 16 / sizeof(T), COPIES = ROW_BYTES / 16;
  static_assert(BM * COPIES % THREADS == 0);
#pragma unroll
  for (int i = 0; i < BM * COPIES / THREADS; ++i) {
    const int e = i * THREADS + threadIdx.x, row = e / COPIES, column = e % COPIES * PER_COPY;
    const bool wanted = task.row0 + row < task.rows;
    const int64 at = (matrix + task.row0 + row) * (ROW_BYTES / sizeof(T)) + column;
    cp_async<16>(tile + row * pitch + column, wanted ? filters + at : filters, wanted);
  }
}

// tf32. STAGES steps are under way at once; a thread gathers for one cell. TABLE: see TableRow.
template <int BM, int BN, int WM, int WN, int STAGES, bool TABLE, bool LONG>
__global__ void __launch_bounds__(BM / WM * (BN / WN) * 32, BM == 128 ? 2 : 4)
conv_tf32(int images, int channels, int h, int w, int rows, int out_h, int out_w, int r, int s, int stride_h,
          int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w, int groups, bool backward,
          const float* __restrict__ input, const float* __restrict__ filters, ENDING, float* __restrict__ output,
          float* __restrict__ moments) {
  constexpr int BK = ROW_BYTES / 4, THREADS = BM / WM * (BN / WN) * 32, TM = WM / 16, TN = WN / 8;
  constexpr int A_PITCH = BK + 4, B_PITCH = BN + 8, STAGE = BM * A_PITCH + BK * B_PITCH;
  constexpr int DOWN = THREADS / BN, EACH = BK / DOWN;  // a thread gathers every DOWN-th channel of a step
  static_assert(THREADS % BN == 0 && BK % DOWN == 0);
  DYNAMIC_SHARED(float, shared);
  Packed<int, 2>* table = reinterpret_cast<Packed<int, 2>*>(shared + STAGES * STAGE);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;
  const int warp_row = warp / (BN / WN) * WM, warp_column = warp % (BN / WN) * WN;
  const Task task = task_of_block<BM, BN>(images, channels, h, w, rows, out_h, out_w, r, s, stride_h, stride_w, pad_h,
                                          pad_w, dilation_h, dilation_w, groups, backward);
  if (task.column0 >= task.columns()) return;  // a phase may have fewer cells than the first
  const Filters<BK, TABLE> packed(task, r * s);
  const int steps = packed.steps(task), first_channel = threadIdx.x / BN;
  const Cell cell(task, input, task.column0 + threadIdx.x % BN);
  Step next{};
  float sums[TM][TN][4] = {};

  auto gather = [&](float* tile) {
    const int first = next.chunk * BK + first_channel;
    if constexpr (TABLE) {
      const int depth = channels * r * s;
#pragma unroll
      for (int i = 0; i < EACH; ++i) {
        const int element = first + i * DOWN;
        const TableRow row = unpack_row(load_packed<2>(table[element].v));
        const bool wanted = element < depth && cell.meets(task, row.down, row.right);
        cp_async<4>(tile + i * DOWN * B_PITCH, wanted ? cell.image + cell.at(task, 0, 0) + row.offset : input, wanted);
      }
    } else {
      const int down = next.tap_y * task.high.tap_step, right = next.tap_x * task.wide.tap_step;
      const bool meets = cell.meets(task, down, right);
      const float* source = cell.image + cell.at(task, down, right) + int64(first) * task.in_plane();
#pragma unroll
      for (int i = 0; i < EACH; ++i) {
        const bool wanted = meets && first + i * DOWN < channels;
        cp_async<4>(tile + i * DOWN * B_PITCH, wanted ? source + int64(i) * DOWN * task.in_plane() : input, wanted);
      }
    }
  };
  auto copy_step = [&](int step) {
    float* a_tile = shared + step % STAGES * STAGE;
    copy_filters<BM, THREADS>(a_tile, A_PITCH, filters, packed.matrix(task, next, s), task);
    gather(a_tile + BM * A_PITCH + first_channel * B_PITCH + threadIdx.x % BN);
    next.advance<TABLE>(task);
  };
  auto multiply = [&](int step) {
    const float* a_tile = shared + step % STAGES * STAGE;
    const float* b_tile = a_tile + BM * A_PITCH;
#pragma unroll
    for (int kk = 0; kk < BK; kk += 8) {
      unsigned x[TM][4], y[TN][2];
#pragma unroll
      for (int i = 0; i < TM; ++i) load_a_fragment<false>(x[i], a_tile, A_PITCH, warp_row + i * 16, kk);
#pragma unroll
      for (int j = 0; j < TN; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e)
          y[j][e] = to_tf32(b_tile[(kk + q + e * 4) * B_PITCH + warp_column + j * 8 + g]);
#pragma unroll
      for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int j = 0; j < TN; ++j) mma_m16n8k8_tf32(sums[i][j], x[i], y[j], sums[i][j]);
    }
  };

  if constexpr (TABLE) {
    for (int i = threadIdx.x; i < steps * BK; i += THREADS) store_packed<2>(table[i].v, pack_row(table_row(task, i)));
    __syncthreads();
  }
  run_stages<STAGES>(steps, copy_step, multiply);
  const Ending ending LONG_OR_SHORT(LONG);
  if constexpr (LONG) {
    if (moments) leave_moments<BM, BN, WN>(sums, task, warp_row, warp_column, bias, shared, moments);
  }
  store_sums(sums, task, warp_row, warp_column, ending, output);
}

// 16 bits (T is bf16 or fp16). A thread gathers a run of channels for one cell and rounds them on the way to shared
// memory, where they lie side by side; while a step is computed the next one's numbers wait in registers.
template <class T, int BM, int BN, int WM, int WN, bool TABLE, bool LONG>
__global__ void __launch_bounds__(BM / WM * (BN / WN) * 32, BM == 128 ? 2 : 4)
conv_narrow(int images, int channels, int h, int w, int rows, int out_h, int out_w, int r, int s, int stride_h,
            int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w, int groups, bool backward,
            const float* __restrict__ input, const T* __restrict__ filters, ENDING, float* __restrict__ output,
            float* __restrict__ moments) {
  constexpr int BK = ROW_BYTES / 2, THREADS = BM / WM * (BN / WN) * 32, TM = WM / 16, TN = WN / 8;
  constexpr int PITCH = BK + 8, STAGE = (BM + BN) * PITCH, EACH = BK * BN / THREADS;
  static_assert(THREADS % BN == 0 && EACH % 8 == 0);
  DYNAMIC_SHARED(T, shared);
  Packed<int, 2>* table = reinterpret_cast<Packed<int, 2>*>(shared + 2 * STAGE);
  const int warp = threadIdx.x / 32;
  const int warp_row = warp / (BN / WN) * WM, warp_column = warp % (BN / WN) * WN;
  const Task task = task_of_block<BM, BN>(images, channels, h, w, rows, out_h, out_w, r, s, stride_h, stride_w, pad_h,
                                          pad_w, dilation_h, dilation_w, groups, backward);
  if (task.column0 >= task.columns()) return;  // a phase may have fewer cells than the first
  const Filters<BK, TABLE> packed(task, r * s);
  const int steps = packed.steps(task), first_channel = threadIdx.x / BN * EACH;
  const Cell cell(task, input, task.column0 + threadIdx.x % BN);
  Step next{};
  float gathered[EACH], sums[TM][TN][4] = {};

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
  // Begins the copies of a step: the filters on their own, what is gathered into registers.
  auto fetch = [&](int step) {
    copy_filters<BM, THREADS>(shared + step % 2 * STAGE, PITCH, filters, packed.matrix(task, next, s), task);
    cp_async_commit();
    gather();
    next.advance<TABLE>(task);
  };
  auto keep = [&](int step) {
    T* column = shared + step % 2 * STAGE + (BM + threadIdx.x % BN) * PITCH + first_channel;
#pragma unroll
    for (int i = 0; i < EACH; i += 8) {
      Packed<unsigned, 4> eight;
#pragma unroll
      for (int e = 0; e < 4; ++e) eight.v[e] = narrow_pair<T>(gathered[i + 2 * e], gathered[i + 2 * e + 1]);
      store_packed<4>(reinterpret_cast<unsigned*>(column + i), eight);
    }
    cp_async_wait<0>();
  };
  auto multiply = [&](int step) {
    const T* a_tile = shared + step % 2 * STAGE;
    const T* b_tile = a_tile + BM * PITCH;
#pragma unroll
    for (int kk = 0; kk < BK; kk += 16) {
      unsigned x[TM][4], y[TN][2];
#pragma unroll
      for (int i = 0; i < TM; ++i) load_a_fragment<false>(x[i], a_tile, PITCH, warp_row + i * 16, kk);
#pragma unroll
      for (int j = 0; j < TN; j += 2)
        load_b_fragments<false>(y[j], y[j + 1], b_tile, PITCH, warp_column + j * 8, kk);
#pragma unroll
      for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int j = 0; j < TN; ++j) mma_m16n8k16<T>(sums[i][j], x[i], y[j]);
    }
  };

  if constexpr (TABLE) {
    for (int i = threadIdx.x; i < steps * BK; i += THREADS) store_packed<2>(table[i].v, pack_row(table_row(task, i)));
    __syncthreads();
  }
  if (steps > 0) {
    fetch(0);
    keep(0);
  }
  __syncthreads();
  for (int step = 0; step < steps; ++step) {
    const bool more = step + 1 < steps;
    if (more) fetch(step + 1);
    multiply(step);
    if (more) keep(step + 1);
    __syncthreads();
  }
  const Ending ending LONG_OR_SHORT(LONG);
  if constexpr (LONG) {
    if (moments) leave_moments<BM, BN, WN>(sums, task, warp_row, warp_column, bias, reinterpret_cast<float*>(shared), moments);
  }
  store_sums(sums, task, warp_row, warp_column, ending, output);
}

// A float as the tensor cores take it.
template <class T>
DEVICE T packed_number(float x) {
  if constexpr (sizeof(T) == 4)
    return __uint_as_float(to_tf32(x));
  else
    return from_float<T>(x);
}

// Packs filters w for conv_tf32 (T = float) or conv_narrow: `rows` output channels and `channels` of each group, whose
// elements in w lie row_stride and channel_stride apart. With few channels, channels and taps count as channels.
// A thread packs one number; neighbours write neighbours. Bound: one pass over the filters, a small part of the whole.
template <class T>
__global__ void __launch_bounds__(256) pack_filters(int64 count, int rows, int channels, int taps, int row_stride,
                                                    int channel_stride, const float* __restrict__ w,
                                                    T* __restrict__ filters) {
  constexpr int BK = ROW_BYTES / sizeof(T);
  const int chunks = divide_up(channels, BK);
  for (int64 e = blockIdx.x * 256ll + threadIdx.x; e < count; e += gridDim.x * 256ll) {
    const int64 row_number = e / BK, matrix = row_number / rows;
    const int row = static_cast<int>(row_number % rows), tap = static_cast<int>(matrix % taps);
    const int64 chunk = matrix / taps;
    const int channel = static_cast<int>(chunk % chunks) * BK + static_cast<int>(e % BK);
    const float* group = w + chunk / chunks * rows * channels * taps;
    filters[e] = packed_number<T>(
        channel < channels ? group[int64(row) * row_stride + int64(channel) * channel_stride + tap] : 0.0f);
  }
}
