// What a block of an implicit matrix product works on: which cells of the input its cells of the output meet, with
// which packed filters, and what becomes of its sums.
#pragma once
#include "conv_axis.cuh"
#include "epilogue.cuh"
#include "moments.cuh"
#include "unrolled.cuh"

constexpr int ROW_BYTES = 64;    // of one packed row
constexpr int TABLE_ROWS = 2048; // most channels times taps where a step is made of both

// What a block works on: one phase of one group.
struct Task {
  Axis high, wide;
  int group, groups, images, channels, rows, out_plane, out_width, row0, column0;
  DEVICE int columns() const { return images * high.cells * wide.cells; }
  DEVICE int in_plane() const { return high.in_size * wide.in_size; }
  // Where a column's cell of output channel 0 of the group lies.
  DEVICE int64 output(int column) const {
    const int cells = high.cells * wide.cells, image = column / cells, cell = column % cells;
    const int y = high.out_first + cell / wide.cells * high.out_step;
    const int x = wide.out_first + cell % wide.cells * wide.out_step;
    return (int64(image) * groups + group) * rows * out_plane + y * out_width + x;
  }
};
template <int BM, int BN>
DEVICE Task task_of_block(int images, int channels, int h, int w, int rows, int out_h, int out_w, int r, int s,
                          int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w, int groups,
                          bool backward) {
  Task task;
  const int down = divide_up(rows, BM), phase = blockIdx.z / groups;
  if (backward) {
    task.high = backward_axis(h, out_h, r, stride_h, pad_h, dilation_h, phase / stride_w);
    task.wide = backward_axis(w, out_w, s, stride_w, pad_w, dilation_w, phase % stride_w);
  } else {
    task.high = forward_axis(h, out_h, r, stride_h, pad_h, dilation_h);
    task.wide = forward_axis(w, out_w, s, stride_w, pad_w, dilation_w);
  }
  task.group = blockIdx.z % groups;
  task.groups = groups;
  task.images = images;
  task.channels = channels;
  task.rows = rows;
  task.out_plane = out_h * out_w;
  task.out_width = out_w;
  task.row0 = blockIdx.x % down * BM;  // blocks of the same cells are neighbours
  task.column0 = blockIdx.x / down * BN;
  return task;
}

// The step that is copied next: a chunk of channels and a tap.
struct Step {
  int chunk, tap_y, tap_x;
  template <bool TABLE>
  DEVICE void advance(const Task& task) {
    if constexpr (!TABLE) {
      if (++tap_x < task.wide.taps) return;
      tap_x = 0;
      if (++tap_y < task.high.taps) return;
      tap_y = 0;
    }
    ++chunk;
  }
};

// The cell of the output that a thread gathers for: where its window begins in the first channel of its image.
struct Cell {
  const float* image;
  int y, x;
  bool inside;
  DEVICE Cell(const Task& task, const float* input, int column) {
    const int cells = task.high.cells * task.wide.cells, number = column / cells, cell = column % cells;
    inside = column < task.columns();
    image = input + (int64(inside ? number : 0) * task.groups + task.group) * task.channels * task.in_plane();
    y = task.high.in_first + cell / task.wide.cells * task.high.in_step;
    x = task.wide.in_first + cell % task.wide.cells * task.wide.in_step;
  }
  DEVICE bool meets(const Task& task, int down, int right) const {
    return inside && static_cast<unsigned>(y + down) < static_cast<unsigned>(task.high.in_size) &&
           static_cast<unsigned>(x + right) < static_cast<unsigned>(task.wide.in_size);
  }
  DEVICE int64 at(const Task& task, int down, int right) const {
    return int64(y + down) * task.wide.in_size + x + right;
  }
};

// Channels and taps as one axis, for layers of few channels: how far from a window's beginning each element lies.
struct TableRow {
  int offset, down, right;
};
DEVICE TableRow table_row(const Task& task, int element) {
  const int taps = task.high.taps * task.wide.taps, channel = element / taps, tap = element % taps;
  const int down = tap / task.wide.taps * task.high.tap_step, right = tap % task.wide.taps * task.wide.tap_step;
  return {channel * task.in_plane() + down * task.wide.in_size + right, down, right};
}
// A row in 8 bytes; taps lie within 16 bits of each other.
DEVICE Packed<int, 2> pack_row(const TableRow& row) { return {{row.offset, row.down << 16 | row.right}}; }
DEVICE TableRow unpack_row(const Packed<int, 2>& row) { return {row.v[0], row.v[1] >> 16, row.v[1] & 0xffff}; }

// How many steps there are, and which packed matrix a step multiplies with.
template <int BK, bool TABLE>
struct Filters {
  int chunks, taps;
  DEVICE Filters(const Task& task, int all_taps)
      : chunks(divide_up(TABLE ? task.channels * all_taps : task.channels, BK)), taps(TABLE ? 1 : all_taps) {}
  DEVICE int steps(const Task& task) const { return TABLE ? chunks : chunks * task.high.taps * task.wide.taps; }
  DEVICE int64 matrix(const Task& task, const Step& step, int s) const {
    const int tap_y = task.high.tap_first + step.tap_y * task.high.tap_jump;
    const int tap = TABLE ? 0 : tap_y * s + task.wide.tap_first + step.tap_x * task.wide.tap_jump;
    return ((int64(task.group) * chunks + step.chunk) * taps + tap) * task.rows;
  }
};

// Stores a warp's sums; neighbouring cells two at once where images have an even number of them.
template <int TM, int TN>
DEVICE void store_sums(const float (&sums)[TM][TN][4], const Task& task, int row0, int column0, const Ending& ending,
                       float* output) {
  const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4, columns = task.columns();
  const bool pairs = task.out_plane % 2 == 0 && task.high.out_step == 1 && task.wide.out_step == 1 &&
                     ending.is_packed<2>(output);
  unrolled<TN>([&](int j) {
    const int column = task.column0 + column0 + j * 8 + 2 * q;
    if (column >= columns) return;
    const int64 first = task.output(column);
    const int64 second = !pairs && column + 1 < columns ? task.output(column + 1) : first + 1;
    unrolled<TM * 2>([&](int i) {
      const int row = task.row0 + row0 + i * 8 + g;
      if (row >= task.rows) return;
      const Line line = ending.line(task.group * task.rows + row);
      const float y0 = line.at(sums[i / 2][j][i % 2 * 2]), y1 = line.at(sums[i / 2][j][i % 2 * 2 + 1]);
      const int64 channel = int64(row) * task.out_plane;
      if (pairs) {
        ending.store<2>(output, channel + first, {{y0, y1}});
      } else {
        ending.store<1>(output, channel + first, {{y0}});
        if (column + 1 < columns) ending.store<1>(output, channel + second, {{y1}});
      }
    });
  });
}

// Leaves the moments of the BM x BN sums of a block of a forward pass, and the bias, in each of their channels; `kept`:
// shared memory that nobody uses any more once all have come here. A warp has WN columns of them.
template <int BM, int BN, int WN, int TM, int TN>
DEVICE void leave_moments(const float (&sums)[TM][TN][4], const Task& task, int row0, int column0, const float* bias,
                          float* kept, float* moments) {
  constexpr int ACROSS = BN / WN;
  const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4, left = task.columns() - task.column0 - column0 - 2 * q;
  const int down = divide_up(task.rows, BM), parts = gridDim.x / down, first = task.group * task.rows + task.row0;
  unsigned inside = 0;
#pragma unroll
  for (int k = 0; k < TN * 2; ++k) inside |= unsigned(k / 2 * 8 + k % 2 < left) << k;
  const Held<1, 2, TN * 2> held(inside);
  __syncthreads();
  unrolled<TM * 2>([&](int i) {
    const int row = row0 + i * 8 + g;
    const Moments all = held.moments([&](int k) { return sums[i / 2][k / 2][i % 2 * 2 + k % 2]; });
    if (q == 0) all.store(kept + (column0 / WN * BM + row) * Moments::NUMBERS);
  });
  merge_kept<ACROSS, BM>(kept, task.rows - task.row0, first, bias, moments, blockIdx.x / down, parts);
}
