// Sums over everything but the channels, in two stages: gradients of biases and scales, and Reduction; and what
// Reduction's backward spreads out again.
//
// Layout: arrays (outer, channels, inner) of floats. Stage one leaves a share of each sum for each chunk of blocks, in
// (chunks, channels) or (chunks, channels, inner); stage two adds the shares up in a fixed order. With one chunk stage
// one writes the sums themselves.
// Mapping: `sum_rows` (long inner axis) gives a block one channel, a warp at a time a stretch of its cells, and
// `sum_short_rows` (few cells of a channel) a warp one channel; `sum_columns` (short inner axis, many rows) gives each
// lane neighbouring columns of (outer, channels inner) and each warp every 8th row.
// Bound: memory; 4 bytes an element for each array that is read.
#include "broadcast.cuh"
#include "elementwise.cuh"

// What is summed up: numbers of an element, from dy and perhaps x.
struct Plain {
  static constexpr int sums = 1;
  static constexpr bool reads_x = false;
  STATIC_DEVICE void add(float (&sum)[1], float dy, float) { sum[0] += dy; }
};
struct Magnitude : Plain {
  STATIC_DEVICE void add(float (&sum)[1], float dy, float) { sum[0] += fabsf(dy); }
};
struct Square : Plain {
  STATIC_DEVICE void add(float (&sum)[1], float dy, float) { sum[0] += dy * dy; }
};
struct Product {
  static constexpr int sums = 1;
  static constexpr bool reads_x = true;
  STATIC_DEVICE void add(float (&sum)[1], float dy, float x) { sum[0] += dy * x; }
};
struct Below {  // where x is negative: the gradient of its slope
  static constexpr int sums = 1;
  static constexpr bool reads_x = true;
  STATIC_DEVICE void add(float (&sum)[1], float dy, float x) { sum[0] += dy * (x > 0 ? 0.0f : x); }
};
struct ProductAndPlain {
  static constexpr int sums = 2;
  static constexpr bool reads_x = true;
  STATIC_DEVICE void add(float (&sum)[2], float dy, float x) {
    sum[0] += dy * x;
    sum[1] += dy;
  }
};

constexpr int WARPS = 8;  // of a block
constexpr int STRETCH = 1024;  // cells that a warp takes at a time

// target = factor * sum, added to what is there if `adds`.
DEVICE void put_sum(float* target, float sum, float factor, bool adds) {
  *target = factor * sum + (adds ? *target : 0.0f);
}

// Adds up neighbouring cells, all lanes of a warp together. `packed`: addresses and length allow packs of 4.
template <class Term>
DEVICE void add_cells(float (&sum)[Term::sums], const float* dy, const float* x, int length, bool packed) {
  const int lane = threadIdx.x % 32;
  auto take = [&](int cell, auto pack) {
    constexpr int count = decltype(pack)::count;
    const auto values = load_packed<count>(dy + cell);
    Packed<float, count> others = {};
    if constexpr (Term::reads_x) others = load_packed<count>(x + cell);
#pragma unroll
    for (int j = 0; j < count; ++j) Term::add(sum, values.v[j], others.v[j]);
  };
  if (packed) {
#pragma unroll 2
    for (int cell = lane * 4; cell < length; cell += 128) take(cell, PackOf<4>{});
  } else {
#pragma unroll 4
    for (int cell = lane; cell < length; cell += 32) take(cell, PackOf<1>{});
  }
}

// A block for each channel and chunk; blocks: channels * chunks.
template <class Term>
__global__ void __launch_bounds__(WARPS * 32)
sum_rows(int outer, int channels, int inner, int chunks, bool packed, const float* __restrict__ dy,
         const float* __restrict__ x, float* first, float* second, float factor, bool adds) {
  const int channel = blockIdx.x % channels, chunk = blockIdx.x / channels, warp = threadIdx.x / 32;
  const unsigned stretches = divide_up(inner, STRETCH);
  float sum[Term::sums] = {};
  for (unsigned unit = chunk * WARPS + warp; unit < outer * stretches; unit += chunks * WARPS) {
    const unsigned row = unit / stretches, begin = unit % stretches * STRETCH;
    const int64 start = (int64(row) * channels + channel) * inner + begin;
    const int length = min(STRETCH, inner - static_cast<int>(begin));
    add_cells<Term>(sum, dy + start, Term::reads_x ? x + start : nullptr, length, packed);
  }
  float* const targets[] = {first, second};
#pragma unroll
  for (int k = 0; k < Term::sums; ++k) {
    const float whole = block_sum<WARPS * 32>(sum[k]);
    if (threadIdx.x == 0 && targets[k]) put_sum(targets[k] + int64(chunk) * channels + channel, whole, factor, adds);
  }
}

// The same with a warp for each channel, for few cells of many channels; blocks: channels / WARPS, rounded up.
template <class Term>
__global__ void __launch_bounds__(WARPS * 32)
sum_short_rows(int outer, int channels, int inner, bool packed, const float* __restrict__ dy,
               const float* __restrict__ x, float* first, float* second, float factor, bool adds) {
  const int channel = blockIdx.x * WARPS + threadIdx.x / 32;
  if (channel >= channels) return;
  float sum[Term::sums] = {};
  for (int row = 0; row < outer; ++row) {
    const int64 start = (int64(row) * channels + channel) * inner;
    add_cells<Term>(sum, dy + start, Term::reads_x ? x + start : nullptr, inner, packed);
  }
  float* const targets[] = {first, second};
#pragma unroll
  for (int k = 0; k < Term::sums; ++k) {
    const float whole = warp_sum(sum[k]);
    if (threadIdx.x % 32 == 0 && targets[k]) put_sum(targets[k] + channel, whole, factor, adds);
  }
}

// blocks: columns / (32 COUNT), rounded up, * chunks; or with one chunk, as many for each of gridDim.y matrices, whose
// rows are summed up apart. COUNT > 1 needs columns and addresses that allow packs.
template <class Term, int COUNT>
__global__ void __launch_bounds__(WARPS * 32)
sum_columns(int rows, int columns, int chunks, const float* __restrict__ dy, const float* __restrict__ x, float* first,
            float* second, float factor, bool adds) {
  __shared__ float shares[WARPS][32 * COUNT];
  const int across = divide_up(columns, 32 * COUNT), chunk = blockIdx.x / across;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int column = (blockIdx.x % across * 32 + lane) * COUNT;
  const int64 matrix = int64(blockIdx.y) * rows * columns;
  float sum[COUNT][Term::sums] = {};

  if (column < columns)
#pragma unroll 4
    for (int row = chunk * WARPS + warp; row < rows; row += chunks * WARPS) {
      const int64 at = matrix + int64(row) * columns + column;
      const auto values = load_packed<COUNT>(dy + at);
      Packed<float, COUNT> others = {};
      if constexpr (Term::reads_x) others = load_packed<COUNT>(x + at);
#pragma unroll
      for (int j = 0; j < COUNT; ++j) Term::add(sum[j], values.v[j], others.v[j]);
    }
  float* const targets[] = {first, second};
#pragma unroll
  for (int k = 0; k < Term::sums; ++k) {
#pragma unroll
    for (int j = 0; j < COUNT; ++j) shares[warp][j * 32 + lane] = sum[j][k];
    __syncthreads();
    for (int j = warp; j < COUNT; j += WARPS) {
      float whole = 0;
#pragma unroll
      for (int other = 0; other < WARPS; ++other) whole += shares[other][j * 32 + lane];
      if (column >= columns || !targets[k]) continue;
      put_sum(targets[k] + int64(chunk + blockIdx.y) * columns + column + j, whole, factor, adds);
    }
    __syncthreads();
  }
}

// Stage two: the sums from their shares (chunks, channels, inner). A block takes 32 channels; each of its warps every
// 8th of a channel's shares. A target may be null.
template <int UNROLL>
__global__ void __launch_bounds__(WARPS * 32)
add_shares(int chunks, int channels, int inner, const float* __restrict__ first_shares,
           const float* __restrict__ second_shares, float* first, float* second, float factor, bool adds) {
  __shared__ float shares[WARPS][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int channel = blockIdx.x * 32 + lane;
  const float* const sources[] = {first_shares, second_shares};
  float* const targets[] = {first, second};
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    if (!targets[k]) continue;
    float sum = 0;
    if (channel < channels)
#pragma unroll UNROLL
      for (unsigned share = warp; share < unsigned(chunks) * inner; share += WARPS) {
        const unsigned chunk = share / inner, cell = share % inner;
        sum += sources[k][(int64(chunk) * channels + channel) * inner + cell];
      }
    shares[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && channel < channels) {
      float whole = 0;
#pragma unroll
      for (int other = 0; other < WARPS; ++other) whole += shares[other][lane];
      put_sum(targets[k] + channel, whole, factor, adds);
    }
    __syncthreads();
  }
}

// y = the sum over the middle axis of x (outer, middle, inner): one thread for each result.
template <int UNROLL>
__global__ void __launch_bounds__(256)
sum_middle(unsigned n, int middle, unsigned inner, uint64 inner_r, const float* __restrict__ x, float* __restrict__ y) {
  for_each_pack<1>(n, [&](int64 i, auto) {
    unsigned row = static_cast<unsigned>(i);
    const unsigned cell = Divisor{inner, inner_r}.split(row);
    const float* const first = x + int64(row) * middle * inner + cell;
    float sum = 0;
#pragma unroll UNROLL
    for (int k = 0; k < middle; ++k) sum += first[int64(k) * inner];
    y[i] = sum;
  });
}

// The slope of one element in a sum of all of its row.
struct One {
  static constexpr bool reads_x = false;
  STATIC_DEVICE float slope(float) { return 1; }
};
struct Sign {
  static constexpr bool reads_x = true;
  STATIC_DEVICE float slope(float x) { return static_cast<float>((x > 0) - (x < 0)); }
};
struct Twice {
  static constexpr bool reads_x = true;
  STATIC_DEVICE float slope(float x) { return 2 * x; }
};

// dx = factor dy[row] slope(x) for every element of the rows.
template <class Slope>
__global__ void __launch_bounds__(256)
spread_rows(unsigned n, bool packed, unsigned columns, uint64 columns_r, unsigned rows, uint64 rows_r, const float* dy,
            const float* x, float* dx, float factor) {
  const Channels channels = {{columns, columns_r}, {rows, rows_r}};
  for_each_pack<4>(packed, n, [&](int64 i, auto pack) {
    constexpr int count = decltype(pack)::count;
    Packed<float, count> values = {};
    if constexpr (Slope::reads_x) values = load_packed<count>(x + i);
    Channel at = channels.of(static_cast<unsigned>(i));
#pragma unroll
    for (int j = 0; j < count; ++j) {
      values.v[j] = factor * dy[at.channel] * Slope::slope(values.v[j]);
      channels.advance(at);
    }
    store_packed(dx + i, values);
  });
}
