// Convolution by 3 x 3 filters with a stride of 1 in fewer multiplications, fp32; see winograd.cuh.
//
// Layout: x (N, C, H, W), y (N, K, P, Q); backward to the bottom is the same with the filters turned and the sides
// changed over. The output is cut into tiles of M x M cells, numbered through all images, rows and columns.
// F(2 x 2) runs in one kernel besides that of the filters. F(4 x 4) runs in three around a matrix product for each of
// the 36 numbers of a tile, through memory.
// Bound: F(2 x 2) 16/36, F(4 x 4) 36/144 of a direct convolution's FLOPs; F(4 x 4) moves 4.5 floats more for each of x
// and y.
#include "netc.cuh"
#include "winograd.cuh"

// u = the transformed filters; row and channel are those of the product, further ones are zeros. A row's number lies
// beside its neighbours', a channel's channel_pitch apart, a position's position_pitch.
// Mapping: a thread transforms one filter, a row's neighbours neighbouring ones. A small part of the whole.
template <int M>
__global__ void __launch_bounds__(256)
winograd_filters(int rows, int channels, int row_pitch, int all_channels, int64 channel_pitch, int64 position_pitch,
                 int row_stride, int channel_stride, bool turned, const float* __restrict__ w, float* __restrict__ u) {
  constexpr int SIDE = M + 2;
  const int64 count = int64(row_pitch) * all_channels;
  for (int64 e = blockIdx.x * 256ll + threadIdx.x; e < count; e += gridDim.x * 256ll) {
    const int row = static_cast<int>(e % row_pitch), channel = static_cast<int>(e / row_pitch);
    const bool inside = row < rows && channel < channels;
    const float* filter = w + (inside ? int64(row) * row_stride + int64(channel) * channel_stride : 0);
    float square[SIDE][SIDE] = {};
#pragma unroll
    for (int i = 0; i < 9; ++i)
      if (inside) square[i / 3][i % 3] = filter[turned ? 8 - i : i];
    transform_square<SIDE, 3>(square, Winograd<M>::filter);
#pragma unroll
    for (int i = 0; i < SIDE * SIDE; ++i)
      u[channel * channel_pitch + i * position_pitch + row] = square[i / SIDE][i % SIDE];
  }
}

// F(2 x 2): 64 rows (channels of the output) and 32 tiles to a block, 8 channels of the input to a step. u is
// [channel][16][rows, a multiple of 64]. For each of the 16 positions 16 threads multiply 64 x 8 by 8 x 32 numbers,
// 16 x 8 results each. A thread transforms one square of the input in each step, whose numbers wait in registers while
// the step before is computed. Odd positions lie 16 numbers further round, so that a warp's two meet in no bank.
constexpr int ROWS = 64, TILES = 32, DEPTH = 8, POSITIONS = 16, STAGE = DEPTH * POSITIONS * (ROWS + TILES);

DEVICE int round_bank(int number, int position) { return number ^ position % 2 * 16; }

template <int = 0>
__global__ void __launch_bounds__(256)
winograd_2x2(int channels, int h, int w, int rows, int row_pitch, int p, int q, int pad_h, int pad_w, int tiles,
             const float* __restrict__ x, const float* __restrict__ u, ENDING, float* __restrict__ y) {
  DYNAMIC_SHARED(float, shared);
  const int thread = threadIdx.x, position = thread / 16, row = thread % 16 / 4 * 4, column = thread % 4 * 4;
  const int row_blocks = row_pitch / ROWS, row0 = blockIdx.x % row_blocks * ROWS;
  const int tile0 = blockIdx.x / row_blocks * TILES, down = divide_up(p, 2), across = divide_up(q, 2);
  const int steps = divide_up(channels, DEPTH), my_channel = thread / TILES, my_tile = tile0 + thread % TILES;
  const OutputTile source = output_tile<2>(my_tile, down, across);
  const float* image = x + (my_tile < tiles ? int64(source.image) * channels * h * w : 0);
  float square[4][4], sums[4][4][2][4] = {};

  auto fetch = [&](int step) {
    const int channel = step * DEPTH + my_channel;
    const bool wanted = my_tile < tiles && channel < channels;
    const float* plane = image + (wanted ? int64(channel) * h * w : 0);
    read_square(square, plane, h, w, source.y - pad_h, source.x - pad_w, wanted);
  };
  auto copy_filters = [&](int step) {
    float* target = shared + step % 2 * STAGE;
    const float* first = u + int64(step) * DEPTH * POSITIONS * row_pitch + row0;
#pragma unroll
    for (int i = 0; i < DEPTH * POSITIONS * ROWS / (256 * 4); ++i) {
      const int e = i * 256 + thread, line = e / (ROWS / 4), at = e % (ROWS / 4) * 4;
      cp_async<16>(target + line * ROWS + round_bank(at, line), first + int64(line) * row_pitch + at);
    }
    cp_async_commit();
  };
  auto keep = [&](int step) {
    float* target = shared + step % 2 * STAGE + DEPTH * POSITIONS * ROWS + my_channel * POSITIONS * TILES;
    transform_square<4, 4>(square, Winograd<2>::input);
#pragma unroll
    for (int i = 0; i < POSITIONS; ++i) target[i * TILES + round_bank(thread % TILES, i)] = square[i / 4][i % 4];
    cp_async_wait<0>();
  };
  auto multiply = [&](int step) {
    const float* filters = shared + step % 2 * STAGE + position * ROWS;
    const float* inputs = shared + step % 2 * STAGE + DEPTH * POSITIONS * ROWS + position * TILES;
#pragma unroll
    for (int k = 0; k < DEPTH; ++k) {
      Packed<float, 4> a[4], b[2];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        a[i] = load_packed<4>(filters + k * POSITIONS * ROWS + round_bank(i * 16 + row, position));
#pragma unroll
      for (int j = 0; j < 2; ++j)
        b[j] = load_packed<4>(inputs + k * POSITIONS * TILES + round_bank(j * 16 + column, position));
#pragma unroll
      for (int i = 0; i < 16; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          float& sum = sums[i / 4][i % 4][j / 4][j % 4];
          sum = fmaf(a[i / 4].v[i % 4], b[j / 4].v[j % 4], sum);
        }
    }
  };

  copy_filters(0);
  fetch(0);
  keep(0);
  __syncthreads();
  for (int step = 0; step < steps; ++step) {
    const bool more = step + 1 < steps;
    if (more) {
      copy_filters(step + 1);
      fetch(step + 1);
    }
    multiply(step);
    if (more) keep(step + 1);
    __syncthreads();
  }

  const Ending ending{bias, factor, residual, slope};
  // A tile's 16 numbers are with 16 threads: they meet in shared memory, 16 rows at a time.
#pragma unroll
  for (int part = 0; part < 4; ++part) {
    float* mine = shared + (position * 16 + row) * TILES;
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        Packed<float, 4> four;
#pragma unroll
        for (int e = 0; e < 4; ++e) four.v[e] = sums[part][i][j][e];
        store_packed<4>(mine + i * TILES + round_bank(j * 16 + column, position), four);
      }
    __syncthreads();
    for (int e = thread; e < 16 * TILES; e += 256) {
      const int channel = row0 + part * 16 + e / TILES, number = tile0 + e % TILES;
#pragma unroll
      for (int i = 0; i < POSITIONS; ++i)
        square[i / 4][i % 4] = shared[(i * 16 + e / TILES) * TILES + round_bank(e % TILES, i)];
      transform_square<4, 4>(square, Winograd<2>::output);
      if (channel >= rows || number >= tiles) continue;
      const OutputTile tile = output_tile<2>(number, down, across);
      const int64 plane = (int64(tile.image) * rows + channel) * p * q;
      store_square<2>(square, y, plane, p, q, tile, ending.line(channel), ending);
    }
    __syncthreads();
  }
}

// F(4 x 4), before the products: v[position][channel][tile] of the tiles of x's images.
// Mapping: a thread transforms one square, neighbours neighbouring tiles. Bound: 1 float read, 2.25 written per cell.
template <int = 0>
__global__ void __launch_bounds__(256)
winograd_4x4_input(int channels, int h, int w, int p, int q, int pad_h, int pad_w, int tiles,
                   const float* __restrict__ x, float* __restrict__ v) {
  const int down = divide_up(p, 4), across = divide_up(q, 4);
  const int64 count = int64(channels) * tiles;
  for (int64 e = blockIdx.x * 256ll + threadIdx.x; e < count; e += gridDim.x * 256ll) {
    const int number = static_cast<int>(e % tiles), channel = static_cast<int>(e / tiles);
    const OutputTile tile = output_tile<4>(number, down, across);
    float square[6][6];
    const float* plane = x + (int64(tile.image) * channels + channel) * h * w;
    read_square(square, plane, h, w, tile.y - pad_h, tile.x - pad_w, true);
    transform_square<6, 6>(square, Winograd<4>::input);
#pragma unroll
    for (int i = 0; i < 36; ++i) v[i * count + e] = square[i / 6][i % 6];
  }
}

// F(4 x 4), after the products: y from m[position][row][tile]. Mapping and bound: as before them.
template <int = 0>
__global__ void __launch_bounds__(256)
winograd_4x4_output(int rows, int p, int q, int tiles, const float* __restrict__ m, ENDING, float* __restrict__ y) {
  const Ending ending{bias, factor, residual, slope};
  const int down = divide_up(p, 4), across = divide_up(q, 4);
  const int64 count = int64(rows) * tiles;
  for (int64 e = blockIdx.x * 256ll + threadIdx.x; e < count; e += gridDim.x * 256ll) {
    const int number = static_cast<int>(e % tiles), row = static_cast<int>(e / tiles);
    const OutputTile tile = output_tile<4>(number, down, across);
    float square[6][6];
#pragma unroll
    for (int i = 0; i < 36; ++i) square[i / 6][i % 6] = m[i * count + e];
    transform_square<6, 6>(square, Winograd<4>::output);
    const int64 plane = (int64(tile.image) * rows + row) * p * q;
    store_square<4>(square, y, plane, p, q, tile, ending.line(row), ending);
  }
}
