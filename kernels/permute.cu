// Copies between arrays whose elements lie in different orders: Permute, ShuffleChannel, Tile and Crop.
//
// Layout: at most 5 axes, each with a size and a stride in x and in y; 0 in x repeats. Axis 4 is the innermost of y.
// Mapping: `copy_strided`, a pack of COUNT neighbours for each thread, in the order of y; `copy_tiles`, a block for
// each tile of TILE x TILE, which it turns in shared memory, so that x is read and y written in whole lines.
// Bound: memory; 8 bytes an element.
#include "division.cuh"
#include "elementwise.cuh"

// Sizes and strides are counted in packs; COUNT > 1 needs addresses that are multiples of a pack.
template <int COUNT>
__global__ void __launch_bounds__(256)
copy_strided(unsigned n, unsigned d1, uint64 r1, unsigned d2, uint64 r2, unsigned d3, uint64 r3, unsigned d4, uint64 r4,
             unsigned x0, unsigned x1, unsigned x2, unsigned x3, unsigned x4, unsigned y0, unsigned y1, unsigned y2,
             unsigned y3, unsigned y4, const float* __restrict__ x, float* __restrict__ y) {
  const Divisor sizes[] = {{d1, r1}, {d2, r2}, {d3, r3}, {d4, r4}};
  const unsigned x_strides[] = {x1, x2, x3, x4}, y_strides[] = {y1, y2, y3, y4};
  for_each_pack<1>(n, [&](int64 i, auto) {
    unsigned rest = static_cast<unsigned>(i), from = 0, to = 0;
#pragma unroll
    for (int axis = 3; axis >= 0; --axis) {
      const unsigned place = sizes[axis].split(rest);
      from += place * x_strides[axis];
      to += place * y_strides[axis];
    }
    from += rest * x0;
    to += rest * y0;
    store_packed(y + int64(to) * COUNT, load_packed<COUNT>(x + int64(from) * COUNT));
  });
}

// Axis a has stride 1 in x, axis b has stride 1 in y; the three others number the planes that are turned.
template <int TILE>
__global__ void __launch_bounds__(TILE * 8)
copy_tiles(unsigned blocks, unsigned a, unsigned b, unsigned tiles_a, uint64 tiles_a_r, unsigned tiles_b,
           uint64 tiles_b_r, unsigned xb, unsigned ya, unsigned d1, uint64 r1, unsigned d2, uint64 r2, unsigned x0,
           unsigned x1, unsigned x2, unsigned y0, unsigned y1, unsigned y2, const float* __restrict__ x,
           float* __restrict__ y) {
  __shared__ float tile[TILE][TILE + 1];
  const int lane = threadIdx.x % TILE, line = threadIdx.x / TILE;
  for (unsigned block = blockIdx.x; block < blocks; block += gridDim.x) {
    unsigned plane = block;
    const unsigned a_first = Divisor{tiles_a, tiles_a_r}.split(plane) * TILE;
    const unsigned b_first = Divisor{tiles_b, tiles_b_r}.split(plane) * TILE;
    const unsigned inner = Divisor{d2, r2}.split(plane), middle = Divisor{d1, r1}.split(plane);
    const unsigned from = plane * x0 + middle * x1 + inner * x2, to = plane * y0 + middle * y1 + inner * y2;
#pragma unroll
    for (int row = line; row < TILE; row += 8)
      if (a_first + lane < a && b_first + row < b) tile[row][lane] = x[from + (b_first + row) * xb + a_first + lane];
    __syncthreads();
#pragma unroll
    for (int row = line; row < TILE; row += 8)
      if (a_first + row < a && b_first + lane < b) y[to + (a_first + row) * ya + b_first + lane] = tile[lane][row];
    __syncthreads();
  }
}
