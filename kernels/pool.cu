// Pooling: one output from each window of a plane, and the gradient of every cell from the windows that cover it.
//
// Layout: H x W cells and P x Q outputs, less than 2^31. LAST = 0: of planes (N C), row-major; otherwise of images (N),
// the channels of a cell side by side. `chosen`, in the outputs' order, holds for each 1 + the position inside the
// window (r kernel_w + s) of the cell that became it, 0 for none; CHOSEN is as narrow as the window allows.
// Mapping: LAST neighbouring channels to a thread, where they lie side by side. Forward, a thread for each output;
// large windows are shared by a warp, or by the warps of a block where 32 threads take neighbouring channels. Backward,
// a thread for ROWS cells of a column, so that neighbouring threads touch neighbouring cells whatever W is, and no two
// add to one.
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
  // 1 / the cells of a window along this axis, padding included but not what lies behind it, is a factor of the
  // average.
  DEVICE int counted(int output) const { return min(start(output) + kernel(), size + pad) - start(output); }
};

#define WINDOW_PARAMETERS                                                                                         \
  int height, int width, int output_height, int output_width, int kernel_h, int kernel_w, int stride_h, int stride_w, \
      int pad_h, int pad_w
#define WINDOW_AXES                                                                    \
  const Axis<KERNEL, STRIDE> rows = {height, output_height, kernel_h, stride_h, pad_h}; \
  const Axis<KERNEL, STRIDE> columns = {width, output_width, kernel_w, stride_w, pad_w}

// Places in planes or images of two axes, the first of length `down`, the second of length `across`, whose channels
// make `packs` threads.
struct Place {
  int plane, first, second, pack;
};
template <int LAST>
DEVICE Place place_of(unsigned i, const Divisor& down, const Divisor& across, const Divisor& packs) {
  const int pack = LAST ? packs.split(i) : 0, second = across.split(i), first = down.split(i);
  return {int(i), first, second, pack};
}
#define DIVISORS                                                                                    \
  unsigned down, uint64 down_reciprocal, unsigned across, uint64 across_reciprocal, unsigned packs, \
      uint64 packs_reciprocal
#define PLACE_OF(i)                                                                     \
  place_of<LAST>(i, Divisor{down, down_reciprocal}, Divisor{across, across_reciprocal}, \
                 Divisor{packs, packs_reciprocal})

// Where the cells of a plane lie, of which there are `size`.
template <int LAST>
struct Cells {
  int first, step;
  DEVICE Cells(const Place& at, int size, int packs)
      : first(LAST ? (at.plane * size * packs + at.pack) * LAST : at.plane * size), step(LAST ? packs * LAST : 1) {}
  DEVICE int at(int cell) const { return first + cell * step; }
};
template <int LAST>
constexpr int COUNT_OF = LAST ? LAST : 1;

// What a window comes to. `take` is given its cells in row-major order, `merge` what another thread made of others.
struct Maximum {
  static constexpr bool chooses = true;
  float best = LEAST;
  int place = 0;
  DEVICE void take(float x, int position) {
    if (x > best) best = x, place = position + 1;
  }
  DEVICE void merge(const Maximum& other) {
    if (other.best > best || (other.best == best && other.place < place)) *this = other;
  }
  DEVICE Maximum of_lane(int bits) const {
    return {__shfl_xor_sync(FULL_WARP, best, bits), __shfl_xor_sync(FULL_WARP, place, bits)};
  }
  DEVICE float result(float) const { return best; }
};
struct Average {
  static constexpr bool chooses = false;
  float sum = 0;
  DEVICE void take(float x, int) { sum += x; }
  DEVICE void merge(const Average& other) { sum += other.sum; }
  DEVICE Average of_lane(int bits) const { return {__shfl_xor_sync(FULL_WARP, sum, bits)}; }
  DEVICE float result(float share) const { return sum * share; }
};
struct Expected {  // of a stochastic draw
  static constexpr bool chooses = false;
  float sum = 0, squares = 0;
  DEVICE void take(float x, int) { sum += x, squares += x * x; }
  DEVICE void merge(const Expected& other) { sum += other.sum, squares += other.squares; }
  DEVICE Expected of_lane(int bits) const {
    return {__shfl_xor_sync(FULL_WARP, sum, bits), __shfl_xor_sync(FULL_WARP, squares, bits)};
  }
  DEVICE float result(float) const { return sum > 0 ? squares / sum : 0.0f; }
};

// Leaves what COUNT windows at one place came to, from element `first` of the outputs on. `chosen` and `mask` may be
// null; mask gets the place h W + w of the chosen cell in its plane, -1 for none.
template <int COUNT, class Method, class CHOSEN, class Rows, class Columns>
DEVICE void store_outputs(const Method* windows, const Rows& rows, const Columns& columns, const Place& at, int first,
                          float* y, CHOSEN* chosen, float* mask) {
  // A window behind the padding has no cells: its average is NaN, as the layer has it.
  const float share = 1.0f / static_cast<float>(rows.counted(at.first) * columns.counted(at.second));
  Packed<float, COUNT> results;
#pragma unroll
  for (int j = 0; j < COUNT; ++j) results.v[j] = windows[j].result(share);
  store_packed(y + first, results);
  if constexpr (Method::chooses) {
    Packed<CHOSEN, COUNT> places;
#pragma unroll
    for (int j = 0; j < COUNT; ++j) places.v[j] = static_cast<CHOSEN>(windows[j].place);
    if (chosen) store_packed(chosen + first, places);
    if (!mask) return;
    const int top = rows.start(at.first), left = columns.start(at.second);
#pragma unroll
    for (int j = 0; j < COUNT; ++j) {
      const int position = windows[j].place - 1;
      const int h = top + position / columns.kernel(), w = left + position % columns.kernel();
      results.v[j] = position < 0 ? -1.0f : static_cast<float>(h * columns.size + w);
    }
    store_packed(mask + first, results);
  }
}

// A plane has `down` rows of `across` outputs, and LAST channels of each are a thread's.
template <class Method, class CHOSEN, int KERNEL, int STRIDE, int LAST>
__global__ void __launch_bounds__(256)
pool_forward(unsigned threads, DIVISORS, WINDOW_PARAMETERS, const float* __restrict__ x, float* __restrict__ y,
             CHOSEN* __restrict__ chosen, float* __restrict__ mask) {
  WINDOW_AXES;
  constexpr int COUNT = COUNT_OF<LAST>;
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < threads; i += gridDim.x * blockDim.x) {
    const Place at = PLACE_OF(i);
    const Cells<LAST> cells(at, height * width, packs);
    const int top = rows.start(at.first), left = columns.start(at.second);
    Method windows[COUNT];
    const auto take = [&](int h, int w) {
      const auto values = load_packed<COUNT>(x + cells.at(h * width + w));
#pragma unroll
      for (int j = 0; j < COUNT; ++j) windows[j].take(values.v[j], (h - top) * columns.kernel() + w - left);
    };
    if constexpr (KERNEL > 0) {
#pragma unroll
      for (int r = 0; r < KERNEL; ++r)
#pragma unroll
        for (int s = 0; s < KERNEL; ++s) {
          const int h = top + r, w = left + s;
          if (h >= 0 && h < height && w >= 0 && w < width) take(h, w);
        }
    } else {
      const Span r = rows.cells(at.first), s = columns.cells(at.second);
      for (int h = r.first; h < r.end; ++h)
        for (int w = s.first; w < s.end; ++w) take(h, w);
    }
    store_outputs<COUNT>(windows, rows, columns, at, i * COUNT, y, chosen, mask);
  }
}

// One thread's part of a window whose cells are shared by SHARES threads.
template <int COUNT, int SHARES, class Method, class Rows, class Columns>
DEVICE void take_share(Method* windows, int share, const Rows& rows, const Columns& columns, const Place& at,
                       const float* cells, int step) {
  const Span r = rows.cells(at.first), s = columns.cells(at.second);
  const int across = max(s.end - s.first, 0), count = max(r.end - r.first, 0) * across;
  const int top = rows.start(at.first), left = columns.start(at.second);
#pragma unroll 4
  for (int e = share; e < count; e += SHARES) {
    const int h = r.first + e / across, w = s.first + e % across;
    const auto values = load_packed<COUNT>(cells + (h * columns.size + w) * step);
#pragma unroll
    for (int j = 0; j < COUNT; ++j) windows[j].take(values.v[j], (h - top) * columns.kernel() + w - left);
  }
}

// Large windows of planes: a warp for each output.
template <class Method, class CHOSEN>
__global__ void __launch_bounds__(256)
pool_forward_wide(unsigned outputs, DIVISORS, WINDOW_PARAMETERS, const float* __restrict__ x, float* __restrict__ y,
                  CHOSEN* __restrict__ chosen, float* __restrict__ mask) {
  constexpr int KERNEL = 0, STRIDE = 0, LAST = 0;
  WINDOW_AXES;
  const int lane = threadIdx.x % 32;
  const unsigned step = gridDim.x * (blockDim.x / 32);
  for (unsigned i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; i < outputs; i += step) {
    const Place at = PLACE_OF(i);
    Method window;
    take_share<1, 32>(&window, lane, rows, columns, at, x + Cells<LAST>(at, height * width, packs).first, 1);
#pragma unroll
    for (int bits = 16; bits > 0; bits >>= 1) window.merge(window.of_lane(bits));
    if (lane == 0) store_outputs<1>(&window, rows, columns, at, i, y, chosen, mask);
  }
}

// Large windows where channels lie side by side: the warps of a block share the cells of what is LAST channels for each
// of 32 threads. Then a thread brings together what they have made of one channel.
template <class Method, class CHOSEN, int LAST>
__global__ void __launch_bounds__(256)
pool_forward_shared(unsigned threads, DIVISORS, WINDOW_PARAMETERS, const float* __restrict__ x, float* __restrict__ y,
                    CHOSEN* __restrict__ chosen, float* __restrict__ mask) {
  constexpr int KERNEL = 0, STRIDE = 0, WARPS = 8, CHANNELS = 32 * LAST;
  WINDOW_AXES;
  __shared__ float memory[WARPS * CHANNELS * sizeof(Method) / sizeof(float)];
  Method* shares = reinterpret_cast<Method*>(memory);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (unsigned first = blockIdx.x * 32; first < threads; first += gridDim.x * 32) {
    if (first + lane < threads) {
      const Place at = PLACE_OF(first + lane);
      const Cells<LAST> cells(at, height * width, packs);
      Method windows[LAST];
      take_share<LAST, WARPS>(windows, warp, rows, columns, at, x + cells.first, cells.step);
#pragma unroll
      for (int j = 0; j < LAST; ++j) shares[warp * CHANNELS + lane * LAST + j] = windows[j];
    }
    __syncthreads();
    const int channel = threadIdx.x;
    const unsigned i = first + channel / LAST;
    if (channel < CHANNELS && i < threads) {
      Method window = shares[channel];
#pragma unroll
      for (int other = 1; other < WARPS; ++other) window.merge(shares[other * CHANNELS + channel]);
      store_outputs<1>(&window, rows, columns, PLACE_OF(i), first * LAST + channel, y, chosen, mask);
    }
    __syncthreads();  // the shares may be written again
  }
}

// Draws a cell of each window in proportion to its value: the first at which the running sum reaches a random share of
// the whole. An output takes the number of the stream's draw `*draw` that its place in (N, C, P, Q) says. LAST is 0 or
// 1.
template <class CHOSEN, int LAST>
__global__ void __launch_bounds__(256)
pool_stochastic(unsigned outputs, DIVISORS, WINDOW_PARAMETERS, const float* __restrict__ x, float* __restrict__ y,
                CHOSEN* __restrict__ chosen, uint64 seed, uint64 name, const int64* __restrict__ draw) {
  constexpr int KERNEL = 0, STRIDE = 0;
  WINDOW_AXES;
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < outputs; i += gridDim.x * blockDim.x) {
    const Place at = PLACE_OF(i);
    const Cells<LAST> cells(at, height * width, packs);
    const unsigned number = LAST ? ((at.plane * packs + at.pack) * down + at.first) * across + at.second : i;
    const Span r = rows.cells(at.first), s = columns.cells(at.second);
    float total = 0;
    for (int h = r.first; h < r.end; ++h)
      for (int w = s.first; w < s.end; ++w) total += x[cells.at(h * width + w)];
    const float reached = to_uniform(drawn_bits(seed, name, static_cast<uint64>(*draw), number)) * total;
    float running = 0, value = 0;
    int place = 0;
    for (int h = r.first; h < r.end && !place; ++h)
      for (int w = s.first; w < s.end && !place; ++w) {
        const float cell = x[cells.at(h * width + w)];
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

// dx of ROWS cells of one column; a plane has `down` such groups of `across` columns, and LAST channels of each are a
// thread's. CHOOSES: each output's gradient goes to the cell that was chosen for it; else all cells of a window get the
// same share.
template <bool CHOOSES, class CHOSEN, int KERNEL, int STRIDE, int LAST>
__global__ void __launch_bounds__(256)
pool_backward(unsigned threads, DIVISORS, WINDOW_PARAMETERS, const float* __restrict__ dy, const CHOSEN* __restrict__ chosen,
              float* __restrict__ dx) {
  WINDOW_AXES;
  constexpr int COUNT = COUNT_OF<LAST>;
  // With a stride of 1 there are too many windows to have them all under way.
  constexpr int DOWN = STRIDE > 1 ? (KERNEL + ROWS - 2) / STRIDE + 1 : 0, ACROSS = KERNEL ? (KERNEL - 1) / STRIDE + 1 : 0;
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < threads; i += gridDim.x * blockDim.x) {
    const Place at = PLACE_OF(i);
    const int w = at.second, h0 = at.first * ROWS, last = min(h0 + ROWS, height) - 1;
    const Cells<LAST> outputs(at, output_height * output_width, packs), cells(at, height * width, packs);
    const Span q_span = columns.windows(w, w);
    Packed<float, COUNT> sums[ROWS] = {};
    for_span<DOWN>(rows.windows(h0, last), [&](int p) {
      const int r0 = h0 - rows.start(p);  // of the first of the cells, in this window; it may lie outside
      for_span<ACROSS>(q_span, [&](int q) {
        const int window = outputs.at(p * output_width + q);
        auto gradients = load_packed<COUNT>(dy + window);
        if constexpr (CHOOSES) {
          const auto places = load_packed<COUNT>(chosen + window);
          const int first = r0 * columns.kernel() + w - columns.start(q) + 1;
#pragma unroll
          for (int c = 0; c < COUNT; ++c) {
            const int place = static_cast<int>(places.v[c]), beyond = place > 0 ? place - first : -1;
#pragma unroll
            for (int j = 0; j < ROWS; ++j)
              if (beyond == j * columns.kernel()) sums[j].v[c] += gradients.v[c];
          }
        } else {
          const float share = 1.0f / static_cast<float>(rows.counted(p) * columns.counted(q));
#pragma unroll
          for (int c = 0; c < COUNT; ++c) gradients.v[c] *= share;
#pragma unroll
          for (int j = 0; j < ROWS; ++j)
#pragma unroll
            for (int c = 0; c < COUNT; ++c)
              if (r0 + j >= 0 && r0 + j < rows.kernel()) sums[j].v[c] += gradients.v[c];
        }
      });
    });
#pragma unroll
    for (int j = 0; j < ROWS; ++j)
      if (h0 + j <= last) store_packed(dx + cells.at((h0 + j) * width + w), sums[j]);
  }
}
