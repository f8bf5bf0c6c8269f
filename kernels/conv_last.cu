// Convolution on tensor cores over channels last, forward and backward to the bottom, as a matrix product whose left
// side is copied from the images in pieces of 16 bytes.
//
// Layout: input (N, H, W, groups, channels) in whole pieces, of floats or of 16 bits; filters packed as (groups, taps,
// output channels, channels) in pieces of what is multiplied; output fp32, channels last or (N, K, P, Q).
// The sum of a cell runs over the taps, and over the pieces of each; a step is four of the filters' pieces, whatever
// their taps. Floats that are multiplied in 16 bits are twice as many pieces, and rounded on the way to registers.
// Mapping: one block for BM cells of the output, over all images, x BN output channels; blockIdx.z is the group and,
// backward, the phase. A thread copies the same of a step's pieces for every AT_ONCE-th row of a tile.
// Bound: 2 N K P Q C R S FLOPs; a block copies BM + BN pieces for 2 BM BN products of a piece's numbers.
#include "conv_last_block.cuh"

// Where a piece of a tile's row of PIECES lies: what is loaded at once, which is one piece of 8 rows with 4 in each,
// and two pieces of 4 rows with 8, lies in different banks.
template <int PIECES>
DEVICE int place_of(int row, int piece) {
  static_assert(PIECES == 4 || PIECES == 8);
  return (row * PIECES + (piece ^ (PIECES == 4 ? row / 2 % 4 : row % 4 * 2))) * PIECE_BYTES;
}

// A thread copies its piece of a step for every so many-th row of a tile of ROWS filters.
template <int ROWS, int PIECES, int THREADS, class T, class Tiles>
DEVICE void copy_filters(char* tile, const T* filters, const Walk& walk, const Filters& of, const Tiles& block) {
  constexpr int AT_ONCE = THREADS / PIECES;
  static_assert(ROWS % AT_ONCE == 0 && AT_ONCE % 8 == 0);
  const Axis &high = block.high, &wide = block.wide;
  const int first = threadIdx.x / PIECES, row0 = block.channel0 + first;
  const int tap_y = high.tap_first + walk.tap_y * high.tap_jump, tap_x = wide.tap_first + walk.tap_x * wide.tap_jump;
  const int64 row = (int64(block.group) * of.r * of.s + tap_y * of.s + tap_x) * of.rows + row0;
  const T* packed = filters + (row * of.pieces + walk.piece) * PIECE<T>;
  tile += place_of<PIECES>(first, threadIdx.x % PIECES);
#pragma unroll
  for (int i = 0; i < ROWS; i += AT_ONCE) {
    const bool wanted = walk.tap_y < high.taps && row0 + i < of.rows;
    const T* source = wanted ? packed + int64(i) * of.pieces * PIECE<T> : filters;
    cp_async<16>(tile + i * PIECES * PIECE_BYTES, source, wanted);
  }
}

// The fragment of A whose first row is row0 and which begins with the filters' piece `piece` of a step.
template <class T, class Number, int PIECES>
DEVICE void load_cells(unsigned (&x)[4], const char* tile, int row0, int piece) {
  const int lane = threadIdx.x % 32;
  if constexpr (sizeof(Number) == sizeof(T)) {
    ldmatrix<4, false>(x, tile + place_of<PIECES>(row0 + lane % 16, piece + lane / 16));
    if constexpr (sizeof(T) == 4) {  // the images may lie as the net made them; the filters are rounded
#pragma unroll
      for (int e = 0; e < 4; ++e) x[e] = half_up(x[e]);
    }
  } else {
    const int row = row0 + lane / 4, q = lane % 4;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const char* at = tile + place_of<PIECES>(row + e % 2 * 8, (piece + e / 2) * 2 + q / 2) + q % 2 * 8;
      const auto two = load_packed<2>(reinterpret_cast<const float*>(at));
      x[e] = narrow_pair<T>(two.v[0], two.v[1]);
    }
  }
}

// T: float (tf32), bf16 or fp16, and Number what the input holds, T or float. A warp computes WM cells x WN channels;
// STAGES steps are under way at once.
template <class T, class Number, int BM, int BN, int WM, int WN, int STAGES, bool LONG>
__global__ void __launch_bounds__(BM / WM * (BN / WN) * 32,
                                  LEAST_BLOCKS<BM / WM * (BN / WN), WM * WN, (sizeof(Number) > sizeof(T))>)
conv_last(SIZES, const Number* __restrict__ input, const T* __restrict__ filters, ENDING, float* __restrict__ output,
          float* __restrict__ moments) {
  constexpr int THREADS = BM / WM * (BN / WN) * 32, TM = WM / 16, TN = WN / 8;
  constexpr int WIDER = sizeof(Number) / sizeof(T), A_PIECES = 4 * WIDER, B_PIECES = 4;
  constexpr int A_TILE = BM * A_PIECES * PIECE_BYTES, STAGE = A_TILE + BN * B_PIECES * PIECE_BYTES;
  DYNAMIC_SHARED(char, shared);
  __shared__ Window windows[BM];
  __shared__ int64 targets[BM];
  MAKE_BLOCK;
  const int steps = divide_up(block.high.taps * block.wide.taps * pieces, B_PIECES);
  Walk a_walk{pieces * WIDER, block.wide.taps}, b_walk{pieces, block.wide.taps};
  a_walk.advance(threadIdx.x % A_PIECES);
  b_walk.advance(threadIdx.x % B_PIECES);
  const int row = threadIdx.x / A_PIECES, place = place_of<A_PIECES>(row, threadIdx.x % A_PIECES);
  auto window_of = [&](int i) { return windows[row + i * (THREADS / A_PIECES)]; };
  auto copy_step = [&](int step) {
    char* stage = shared + step % STAGES * STAGE;
    copy_cells<BM, A_PIECES, THREADS>(stage + place, input, window_of, a_walk, from, block);
    copy_filters<BN, B_PIECES, THREADS>(stage + A_TILE, filters, WIDER == 1 ? a_walk : b_walk, of, block);
    a_walk.advance(A_PIECES);
    if constexpr (WIDER > 1) b_walk.advance(B_PIECES);
  };

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_row = warp / (BN / WN) * WM, warp_column = warp % (BN / WN) * WN;
  float sums[TM][TN][4] = {};
  auto multiply = [&](int step) {
    const char* a_tile = shared + step % STAGES * STAGE;
    const char* b_tile = a_tile + A_TILE;
#pragma unroll
    for (int piece = 0; piece < B_PIECES; piece += 2) {
      unsigned x[TM][4], y[TN][2];
#pragma unroll
      for (int i = 0; i < TM; ++i) load_cells<T, Number, A_PIECES>(x[i], a_tile, warp_row + i * 16, piece);
#pragma unroll
      for (int j = 0; j < TN; j += 2) {
        unsigned two[4];
        const int row = warp_column + j * 8 + lane % 8 + lane / 16 * 8;
        ldmatrix<4, false>(two, b_tile + place_of<B_PIECES>(row, piece + lane / 8 % 2));
        y[j][0] = two[0];
        y[j][1] = two[1];
        y[j + 1][0] = two[2];
        y[j + 1][1] = two[3];
      }
#pragma unroll
      for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int j = 0; j < TN; ++j) multiply_fragments<T>(sums[i][j], x[i], y[j]);
    }
  };

  run_stages<STAGES>(steps, copy_step, multiply);
  const Ending ending LONG_OR_SHORT(LONG);
  if constexpr (LONG) {
    float* kept = reinterpret_cast<float*>(shared);
    if (moments) leave_moments<BM, BN, WM>(sums, block, of, warp_row, warp_column, bias, kept, moments);
  }
  store_sums(sums, block, of, to, targets, warp_row, warp_column, ending, output);
}

// Packs filters w for conv_last: `rows` output channels and `channels` of each group, whose elements in w lie
// row_stride and channel_stride apart. A thread packs one number; neighbours write neighbours. Bound: one pass over the
// filters, a small part of the whole.
template <class T>
__global__ void __launch_bounds__(256)
pack_last_filters(unsigned count, unsigned rows, unsigned channels, unsigned padded, unsigned taps, unsigned row_stride,
                  unsigned channel_stride, const float* __restrict__ w, T* __restrict__ filters) {
  for (unsigned e = blockIdx.x * 256 + threadIdx.x; e < count; e += gridDim.x * 256) {
    const unsigned channel = e % padded, row_number = e / padded, row = row_number % rows, matrix = row_number / rows;
    const unsigned group = matrix / taps * rows * channels * taps;
    const unsigned at = group + row * row_stride + channel * channel_stride + matrix % taps;
    filters[e] = packed_number<T>(channel < channels ? w[at] : 0.0f);
  }
}
