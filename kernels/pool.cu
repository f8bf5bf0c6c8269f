// Pooling: one output from each window of a plane, and the gradient of every cell from the windows that cover it.
//
// Layout: planes (N C) of H x W cells and of P x Q outputs, row-major. `chosen` holds for each output 1 + the position
// inside the window (r kernel_w + s) of the cell that became it, 0 for none; CHOSEN is as narrow as the window allows.
// Mapping: forward, a thread or (WIDE, for large windows) a warp for each output; backward, a thread for ROWS cells of a
// column, so that neighbouring threads touch neighbouring cells whatever W is, and no two add to one cell.
// Bound: memory; forward 4 bytes a cell, 4 an output and the size of CHOSEN; backward the same.
#include "division.cuh"
#include "stream.cuh"

constexpr float LEAST = -3.402823466e+38f;  // what Caffe's maximum starts from
constexpr int ROWS = 4;

struct Span {
  int first, end;
};

// The windows along one axis. KERNEL and STRIDE are 0 where they are known only at run time.
template <int KERNEL, int STRIDE>
struct Axis {
  int size, outputs, runtime_kernel, runtime_stride, pad;
  DEVICE int kernel() const { return KERNEL ? KERNEL : runtime_kernel; }
  DEVICE int stride() const { return STRIDE ? STRIDE : runtime_stride; }
  DEVICE int start(int output) const { return output * stride() - pad; }
  // The cells of a window, those of the padding left out.
  DEVICE Span cells(int output) const {
    const int begin = start(output);
    return {max(begin, 0), min(begin + kernel(), size)};
  }
  // The windows that cover any of the cells from first to last.
  DEVICE Span windows(int first, int last) const {
    const int beyond = first + pad - kernel();
    return {beyond < 0 ? 0 : beyond / stride() + 1, min((last + pad) / stride() + 1, outputs)};
  }
  // 1 / the cells of a window along this axis, padding included but not what lies behind it, is a factor of the average.
  DEVICE int counted(int output) const { return min(start(output) + kernel(), size + pad) - start(output); }
};

#define WINDOW_PARAMETERS                                                                                         \
  int height, int width, int output_height, int output_width, int kernel_h, int kernel_w, int stride_h, int stride_w, \
      int pad_h, int pad_w
#define WINDOW_AXES                                                                    \
  const Axis<KERNEL, STRIDE> rows = {height, output_height, kernel_h, stride_h, pad_h}; \
  const Axis<KERNEL, STRIDE> columns = {width, output_width, kernel_w, stride_w, pad_w}

// Row-major places in planes of two axes, the second of length `across`, the first of length `down`.
struct Place {
  int64 plane;
  int first, second;
};
DEVICE Place place_of(unsigned i, const Divisor& down, const Divisor& across) {
  const int second = across.split(i), first = down.split(i);
  return {i, first, second};
}
#define DIVISORS unsigned down, uint64 down_reciprocal, unsigned across, uint64 across_reciprocal
#define PLACE_OF(i) place_of(i, Divisor{down, down_reciprocal}, Divisor{across, across_reciprocal})

// What a window comes to. `take` is given its cells in row-major order, `merge` what another lane has.
struct Maximum {
  static constexpr bool chooses = true;
  float best = LEAST;
  int place = 0;
  DEVICE void take(float x, int position) {
    if (x > best) best = x, place = position + 1;
  }
  DEVICE void merge(int bits) {
    const float other = __shfl_xor_sync(FULL_WARP, best, bits);
    const int other_place = __shfl_xor_sync(FULL_WARP, place, bits);
    if (other > best || (other == best && other_place < place)) best = other, place = other_place;
  }
  DEVICE float result(float) const { return best; }
};
struct Average {
  static constexpr bool chooses = false;
  float sum = 0;
  DEVICE void take(float x, int) { sum += x; }
  DEVICE void merge(int bits) { sum += __shfl_xor_sync(FULL_WARP, sum, bits); }
  DEVICE float result(float share) const { return sum * share; }
};
struct Expected {  // of a stochastic draw
  static constexpr bool chooses = false;
  float sum = 0, squares = 0;
  DEVICE void take(float x, int) { sum += x, squares += x * x; }
  DEVICE void merge(int bits) {
    sum += __shfl_xor_sync(FULL_WARP, sum, bits);
    squares += __shfl_xor_sync(FULL_WARP, squares, bits);
  }
  DEVICE float result(float) const { return sum > 0 ? squares / sum : 0.0f; }
};

// A plane has `down` rows of `across` outputs. `chosen` and `mask` may be null; mask gets the place h W + w of the chosen cell in its plane, -1 for none.
template <class Method, class CHOSEN, int KERNEL, int STRIDE, bool WIDE>
__global__ void __launch_bounds__(256)
pool_forward(unsigned outputs, DIVISORS, WINDOW_PARAMETERS, const float* __restrict__ x, float* __restrict__ y,
             CHOSEN* __restrict__ chosen, float* __restrict__ mask) {
  WINDOW_AXES;
  constexpr int LANES = WIDE ? 32 : 1;
  const int lane = threadIdx.x % LANES;
  const unsigned step = gridDim.x * (blockDim.x / LANES);
  for (unsigned i = blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES; i < outputs; i += step) {
    const Place at = PLACE_OF(i);
    const float* plane = x + at.plane * height * width;
    const int top = rows.start(at.first), left = columns.start(at.second);
    Method window;
    if constexpr (WIDE) {
      const Span r = rows.cells(at.first), s = columns.cells(at.second);
      const int across = max(s.end - s.first, 0), cells = max(r.end - r.first, 0) * across;
      for (int e = lane; e < cells; e += LANES) {
        const int h = r.first + e / across, w = s.first + e % across;
        window.take(plane[h * width + w], (h - top) * columns.kernel() + w - left);
      }
#pragma unroll
      for (int bits = 16; bits > 0; bits >>= 1) window.merge(bits);
    } else if constexpr (KERNEL > 0) {
#pragma unroll
      for (int r = 0; r < KERNEL; ++r)
#pragma unroll
        for (int s = 0; s < KERNEL; ++s) {
          const int h = top + r, w = left + s;
          if (h >= 0 && h < height && w >= 0 && w < width) window.take(plane[h * width + w], r * KERNEL + s);
        }
    } else {
      const Span r = rows.cells(at.first), s = columns.cells(at.second);
      for (int h = r.first; h < r.end; ++h)
        for (int w = s.first; w < s.end; ++w)
          window.take(plane[h * width + w], (h - top) * columns.kernel() + w - left);
    }
    if (lane != 0) continue;
    // A window behind the padding has no cells: its average is NaN, as the layer has it.
    const float share = 1.0f / static_cast<float>(rows.counted(at.first) * columns.counted(at.second));
    y[i] = window.result(share);
    if constexpr (Method::chooses) {
      const int position = window.place - 1;
      if (chosen) chosen[i] = static_cast<CHOSEN>(window.place);
      if (mask) {
        const int h = top + position / columns.kernel(), w = left + position % columns.kernel();
        mask[i] = position < 0 ? -1.0f : static_cast<float>(h * width + w);
      }
    }
  }
}

// Draws a cell of each window in proportion to its value: the first at which the running sum reaches a random share of
// the whole. Output i takes number i of the stream's draw `*draw`.
template <class CHOSEN>
__global__ void __launch_bounds__(256)
pool_stochastic(unsigned outputs, DIVISORS, WINDOW_PARAMETERS, const float* __restrict__ x, float* __restrict__ y,
                CHOSEN* __restrict__ chosen, uint64 seed, uint64 name, const int64* __restrict__ draw) {
  constexpr int KERNEL = 0, STRIDE = 0;
  WINDOW_AXES;
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < outputs; i += gridDim.x * blockDim.x) {
    const Place at = PLACE_OF(i);
    const float* plane = x + at.plane * height * width;
    const Span r = rows.cells(at.first), s = columns.cells(at.second);
    float total = 0;
    for (int h = r.first; h < r.end; ++h)
      for (int w = s.first; w < s.end; ++w) total += plane[h * width + w];
    const float reached = to_uniform(drawn_bits(seed, name, static_cast<uint64>(*draw), i)) * total;
    float running = 0, value = 0;
    int place = 0;
    for (int h = r.first; h < r.end && !place; ++h)
      for (int w = s.first; w < s.end && !place; ++w) {
        const float cell = plane[h * width + w];
        running += cell;
        if (running >= reached) {
          value = cell;
          place = (h - rows.start(at.first)) * columns.kernel() + w - columns.start(at.second) + 1;
        }
      }
    y[i] = value;
    chosen[i] = static_cast<CHOSEN>(place);
  }
}

// Calls body(i) for a span of at most MOST numbers, unrolled; MOST = 0 stands for any number.
template <int MOST, class Body>
DEVICE void for_span(Span span, const Body& body) {
  if constexpr (MOST > 0) {
#pragma unroll
    for (int j = 0; j < MOST; ++j)
      if (span.first + j < span.end) body(span.first + j);
  } else {
    for (int i = span.first; i < span.end; ++i) body(i);
  }
}

// dx of ROWS cells of one column; a plane has `down` such groups of `across` columns. CHOOSES: each output's gradient goes to the cell that was chosen for it; else all cells
// of a window get the same share.
template <bool CHOOSES, class CHOSEN, int KERNEL, int STRIDE>
__global__ void __launch_bounds__(256)
pool_backward(unsigned threads, DIVISORS, WINDOW_PARAMETERS, const float* __restrict__ dy, const CHOSEN* __restrict__ chosen,
              float* __restrict__ dx) {
  WINDOW_AXES;
  // With a stride of 1 there are too many windows to have them all under way.
  constexpr int DOWN = STRIDE > 1 ? (KERNEL + ROWS - 2) / STRIDE + 1 : 0, ACROSS = KERNEL ? (KERNEL - 1) / STRIDE + 1 : 0;
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < threads; i += gridDim.x * blockDim.x) {
    const Place at = PLACE_OF(i);
    const int w = at.second, h0 = at.first * ROWS, last = min(h0 + ROWS, height) - 1;
    const int64 window0 = at.plane * output_height * output_width;
    const Span q_span = columns.windows(w, w);
    float sums[ROWS] = {};
    for_span<DOWN>(rows.windows(h0, last), [&](int p) {
      const int r0 = h0 - rows.start(p);  // of the first of the cells, in this window; it may lie outside
      for_span<ACROSS>(q_span, [&](int q) {
        const int64 window = window0 + p * output_width + q;
        const float gradient = dy[window];
        if constexpr (CHOOSES) {
          const int place = static_cast<int>(chosen[window]);
          const int first = r0 * columns.kernel() + w - columns.start(q) + 1;
#pragma unroll
          for (int j = 0; j < ROWS; ++j)
            if (place == first + j * columns.kernel() && place > 0) sums[j] += gradient;
        } else {
          const float share = gradient * (1.0f / static_cast<float>(rows.counted(p) * columns.counted(q)));
#pragma unroll
          for (int j = 0; j < ROWS; ++j)
            if (r0 + j >= 0 && r0 + j < rows.kernel()) sums[j] += share;
        }
      });
    });
    float* cells = dx + (at.plane * height + h0) * width + w;
#pragma unroll
    for (int j = 0; j < ROWS; ++j)
      if (h0 + j <= last) cells[j * width] = sums[j];
  }
}
