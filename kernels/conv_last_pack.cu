// Images rounded and brought into whole pieces with channels last, for the convolutions of conv_last.cu.
//
// Layout: x (N, H W, groups, channels) or (N, groups, channels, H W), fp32; packed (N, H W, groups, channels in whole
// pieces), zeros behind a group's last. Mapping: from channels last a thread makes a piece; from planes a block turns
// CELLS cells x CHANNELS channels of one group in shared memory. Neighbours write neighbouring pieces.
// Bound: memory; 4 bytes an element of x, and 2 or 4 of packed.
#include "conv_last.cuh"
#include "division.cuh"

// `count` pieces, `pieces` of them in each of the groups. whole: every group's channels are whole packs of 4 floats.
template <class T>
__global__ void __launch_bounds__(256)
pack_last(int64 count, int channels, unsigned pieces, uint64 reciprocal, bool whole, const float* __restrict__ x,
          T* __restrict__ packed) {
  const Divisor groups{pieces, reciprocal};
  for (int64 e = blockIdx.x * 256ll + threadIdx.x; e < count; e += gridDim.x * 256ll) {
    const int64 group = count < 1ll << 32 ? int64(groups.quotient(static_cast<unsigned>(e))) : e / pieces;
    const int first = static_cast<int>(e - group * pieces) * PIECE<T>;
    const float* source = x + group * channels + first;
    float numbers[PIECE<T>] = {};
#pragma unroll
    for (int i = 0; i < PIECE<T>; i += 4) {
      if (whole) {
        if (first + i < channels) {
          const auto four = load_packed<4>(source + i);
#pragma unroll
          for (int j = 0; j < 4; ++j) numbers[i + j] = four.v[j];
        }
      } else {
#pragma unroll
        for (int j = i; j < i + 4; ++j)
          if (first + j < channels) numbers[j] = source[j];
      }
    }
    store_piece(packed + e * PIECE<T>, numbers);
  }
}

// blockIdx.x goes over the tiles of channels, of groups, of cells, and the images, from the innermost out.
template <class T, int CELLS, int CHANNELS>
__global__ void __launch_bounds__(256)
pack_planes(int groups, int channels, int pieces, int plane, const float* __restrict__ x, T* __restrict__ packed) {
  constexpr int PIECES = CHANNELS / PIECE<T>;
  __shared__ float tile[CHANNELS][CELLS + 1];
  const int deep = divide_up(pieces, PIECES), wide = divide_up(plane, CELLS);
  const int piece0 = blockIdx.x % deep * PIECES, cell0 = blockIdx.x / deep / groups % wide * CELLS;
  const int64 group = blockIdx.x / deep / groups / wide * int64(groups) + blockIdx.x / deep % groups;
  const float* source = x + (group * channels + piece0 * PIECE<T>) * plane + cell0;
  const int some = min(CHANNELS, (pieces - piece0) * PIECE<T>), cell = threadIdx.x % CELLS;
  for (int channel = threadIdx.x / CELLS; channel < some; channel += 256 / CELLS) {
    const bool inside = piece0 * PIECE<T> + channel < channels && cell0 + cell < plane;
    tile[channel][cell] = inside ? source[int64(channel) * plane + cell] : 0.0f;
  }
  __syncthreads();
  const int64 image = group / groups * groups * plane;
  for (int e = threadIdx.x; e < CELLS * PIECES; e += 256) {
    const int piece = e % PIECES, row = e / PIECES;
    if (piece0 + piece >= pieces || cell0 + row >= plane) continue;
    float numbers[PIECE<T>];
#pragma unroll
    for (int i = 0; i < PIECE<T>; ++i) numbers[i] = tile[piece * PIECE<T> + i][row];
    const int64 to = image + int64(cell0 + row) * groups + group % groups;
    store_piece(packed + (to * pieces + piece0 + piece) * PIECE<T>, numbers);
  }
}
