// What a block of conv_last.cu and conv_last_wgmma.cu works on, how it copies the cells of a step, and what becomes of
// its sums.
#pragma once
#include "conv_axis.cuh"
#include "conv_last.cuh"
#include "epilogue.cuh"
#include "moments.cuh"
#include "unrolled.cuh"

constexpr int OUTSIDE = -(1 << 29);

// Where the window of a cell of the output begins: in the input, and in its image.
struct alignas(16) Window {
  int64 begin;
  int y, x;
};

// How images lie: how far neighbouring cells and groups lie apart, and the pieces of a group.
struct Source {
  int h, w, cell_pitch, group_pitch, pieces;
};

// How results lie: how far images, cells and channels lie apart.
struct Target {
  int h, w;
  int64 image;
  int cell, channel;
  DEVICE Target(int h, int w, int channels, bool last)
      : h(h), w(w), image(int64(channels) * h * w), cell(last ? channels : 1), channel(last ? 1 : h * w) {}
};

// A convolution's filters: those of a group, their pieces, and how they slide.
struct Filters {
  int rows, pieces, r, s, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups;
};

// One phase of one group: BM of its cells, and BN of its channels.
template <int BM, int BN>
struct Block {
  Axis high, wide;
  int group, cell0, channel0, all_cells;
  DEVICE Block(int images, const Source& from, const Target& to, const Filters& of, bool backward) {
    const int phase = blockIdx.z / of.groups, across = divide_up(of.rows, BN);
    high = backward ? backward_axis(from.h, to.h, of.r, of.stride_h, of.pad_h, of.dilation_h, phase / of.stride_w)
                    : forward_axis(from.h, to.h, of.r, of.stride_h, of.pad_h, of.dilation_h);
    wide = backward ? backward_axis(from.w, to.w, of.s, of.stride_w, of.pad_w, of.dilation_w, phase % of.stride_w)
                    : forward_axis(from.w, to.w, of.s, of.stride_w, of.pad_w, of.dilation_w);
    group = blockIdx.z % of.groups;
    cell0 = blockIdx.x / across * BM;
    channel0 = blockIdx.x % across * BN;  // blocks of the same cells are neighbours
    all_cells = images * high.cells * wide.cells;
  }
  // A cell's window, and where the result of the group's first channel goes.
  DEVICE void find(int cell, const Source& from, const Target& to, const Filters& of, Window& window,
                   int64& target) const {
    const int number = cell0 + cell, image_cells = high.cells * wide.cells;
    const int image = number / image_cells, at = number % image_cells, row = at / wide.cells, column = at % wide.cells;
    const int y = number < all_cells ? high.in_first + row * high.in_step : OUTSIDE;
    const int x = wide.in_first + column * wide.in_step;
    window = {((int64(image) * from.h + y) * from.w + x) * from.cell_pitch + int64(group) * from.group_pitch, y, x};
    const int64 pixel = int64(high.out_first + row * high.out_step) * to.w + wide.out_first + column * wide.out_step;
    target = image * to.image + pixel * to.cell + int64(group) * of.rows * to.channel;
  }
};

// A thread's next piece of the sum: of so many of each tap, of which there are so many in a row.
struct Walk {
  int pieces, taps_wide, piece, tap_y, tap_x;
  DEVICE void advance(int count) {
    piece += count;
    while (piece >= pieces) {
      piece -= pieces;
      if (++tap_x >= taps_wide) {
        tap_x = 0;
        ++tap_y;
      }
    }
  }
};

// A thread copies its piece of a step for every so many-th row of a tile of ROWS rows, the first of them to `place`.
// window_of(i): the window of the i-th that it copies.
template <int ROWS, int PIECES, int THREADS, class T, class WindowOf, class Tiles>
DEVICE void copy_cells(char* place, const T* input, const WindowOf& window_of, const Walk& walk, const Source& from,
                       const Tiles& block) {
  constexpr int AT_ONCE = THREADS / PIECES;
  static_assert(ROWS % AT_ONCE == 0 && AT_ONCE % 8 == 0);
  const int down = walk.tap_y * block.high.tap_step, right = walk.tap_x * block.wide.tap_step;
  const bool more = walk.tap_y < block.high.taps && walk.piece < from.pieces;
  const T* source = input + (int64(down) * from.w + right) * from.cell_pitch + walk.piece * PIECE<T>;
#pragma unroll
  for (int i = 0; i < ROWS / AT_ONCE; ++i) {
    const Window window = window_of(i);
    const bool wanted = more && static_cast<unsigned>(window.y + down) < static_cast<unsigned>(from.h) &&
                        static_cast<unsigned>(window.x + right) < static_cast<unsigned>(from.w);
    cp_async<16>(place + i * AT_ONCE * PIECES * PIECE_BYTES, wanted ? source + window.begin : input, wanted);
  }
}

// Stores a warp's sums; two channels at once where they lie side by side. Of its cells 16 are neighbours, and so many
// lie from their first to the next ones'.
template <int APART = 16, int TM, int TN, class Tiles>
DEVICE void store_sums(const float (&sums)[TM][TN][4], const Tiles& block, const Filters& of, const Target& to,
                       const int64* targets, int row0, int column0, const Ending& ending, float* output) {
  const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  const bool pairs = to.channel == 1 && of.rows % 2 == 0 && ending.is_packed<2>(output);
  int64 firsts[TM * 2];  // of each cell's channels; below 0 for none
#pragma unroll
  for (int i = 0; i < TM * 2; ++i) {
    const int cell = row0 + i / 2 * APART + i % 2 * 8 + g;
    firsts[i] = block.cell0 + cell < block.all_cells ? targets[cell] : -1;
  }
  unrolled<TN>([&](int j) {
    const int channel = block.channel0 + column0 + j * 8 + 2 * q;
    if (channel >= of.rows) return;
    const bool second = channel + 1 < of.rows;
    const Line line0 = ending.line(block.group * of.rows + channel);
    const Line line1 = second ? ending.line(block.group * of.rows + channel + 1) : Line{0, 0};
    unrolled<TM * 2>([&](int i) {
      if (firsts[i] < 0) return;
      const float y0 = line0.at(sums[i / 2][j][i % 2 * 2]), y1 = line1.at(sums[i / 2][j][i % 2 * 2 + 1]);
      const int64 at = firsts[i] + int64(channel) * to.channel;
      if (pairs) {
        ending.store<2>(output, at, {{y0, y1}});
      } else {
        ending.store<1>(output, at, {{y0}});
        if (second) ending.store<1>(output, at + to.channel, {{y1}});
      }
    });
  });
}

// Leaves the moments of the BM x BN sums of a block of a forward pass, and the bias, in each of their channels; `kept`:
// shared memory that nobody uses any more once all have come here. A warp has WM cells of them.
template <int BM, int BN, int WM, int TM, int TN>
DEVICE void leave_moments(const float (&sums)[TM][TN][4], const Block<BM, BN>& block, const Filters& of, int row0,
                          int column0, const float* bias, float* kept, float* moments) {
  const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4, left = block.all_cells - block.cell0 - row0 - g;
  const int across = divide_up(of.rows, BN), parts = gridDim.x / across, first = block.group * of.rows + block.channel0;
  unsigned inside = 0;
#pragma unroll
  for (int k = 0; k < TM * 2; ++k) inside |= unsigned(k * 8 < left) << k;
  const Held<4, 16, TM * 2> held(inside);
  __syncthreads();
  unrolled<TN * 2>([&](int j) {
    const int column = column0 + j / 2 * 8 + 2 * q + j % 2;
    const Moments all = held.moments([&](int k) { return sums[k / 2][j / 2][k % 2 * 2 + j % 2]; });
    if (g == 0) all.store(kept + (row0 / WM * BN + column) * Moments::NUMBERS);
  });
  merge_kept<BM / WM, BN>(kept, of.rows - block.channel0, first, bias, moments, blockIdx.x / across, parts);
}

#define SIZES                                                                                                        \
  int images, int h, int w, int cell_pitch, int group_pitch, int cell_pieces, int pieces, int rows, int out_h,        \
      int out_w, int r, int s, int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w,      \
      int groups, bool backward, bool last
#define MAKE_BLOCK                                                                                                   \
  const Source from{h, w, cell_pitch, group_pitch, cell_pieces};                                                      \
  const Target to(out_h, out_w, groups * rows, last);                                                                 \
  const Filters of{rows, pieces, r, s, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups};             \
  const Block<BM, BN> block(images, from, to, of, backward);                                                          \
  if (block.cell0 >= block.all_cells) return;  /* a phase may have fewer cells than the first */                      \
  for (int i = threadIdx.x; i < BM; i += THREADS) block.find(i, from, to, of, windows[i], targets[i]);                \
  __syncthreads()
