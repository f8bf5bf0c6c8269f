// Several arrays side by side in one, and one taken apart into several: Concat and Slice, both ways.
//
// Layout: all arrays have the same number of rows. Part k holds columns end_(k-1) to end_k of the whole's rows; at most
// 8 parts at once, of which the whole's columns from `start` on are made. A further end is the largest number there is.
// Mapping: one pack of COUNT columns for each thread, in the order of the whole; no thread takes a second one, since a
// loop would hold all parts in registers. Everything is counted in packs.
// Bound: memory; 8 bytes an element.
#include "division.cuh"
#include "eight.cuh"

// The element of its part that a column of a row is.
template <class Pointer>
struct Place {
  Pointer part;
  unsigned offset;
};
template <class Pointer>
DEVICE Place<Pointer> find_part(unsigned row, unsigned column, const Pointer (&parts)[8], const unsigned (&ends)[8]) {
  Pointer part = parts[0];
  unsigned begin = 0, end = ends[0];
#pragma unroll
  for (int k = 1; k < 8; ++k)
    if (column >= ends[k - 1]) {
      part = parts[k];
      begin = ends[k - 1];
      end = ends[k];
    }
  return {part, row * (end - begin) + column - begin};
}

// The parts into the whole; zeros for a part that is null.
template <int COUNT>
__global__ void __launch_bounds__(256)
join(unsigned n, unsigned columns, uint64 columns_r, unsigned start, unsigned pitch, EIGHT(const float*, x),
     EIGHT(unsigned, end), float* __restrict__ whole) {
  const float* const parts[] = GATHER_EIGHT(x);
  const unsigned ends[] = GATHER_EIGHT(end);
  unsigned row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= n) return;
  const unsigned column = Divisor{columns, columns_r}.split(row);
  const auto from = find_part(row, column, parts, ends);
  Packed<float, COUNT> values = {};
  if (from.part) values = load_packed<COUNT>(from.part + int64(from.offset) * COUNT);
  store_packed(whole + (int64(row) * pitch + start + column) * COUNT, values);
}

// The whole into the parts; a part that is null is left out.
template <int COUNT>
__global__ void __launch_bounds__(256)
take_apart(unsigned n, unsigned columns, uint64 columns_r, unsigned start, unsigned pitch, EIGHT(float*, y),
           EIGHT(unsigned, end), const float* __restrict__ whole) {
  float* const parts[] = GATHER_EIGHT(y);
  const unsigned ends[] = GATHER_EIGHT(end);
  unsigned row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= n) return;
  const unsigned column = Divisor{columns, columns_r}.split(row);
  const auto to = find_part(row, column, parts, ends);
  if (to.part)
    store_packed(to.part + int64(to.offset) * COUNT,
                 load_packed<COUNT>(whole + (int64(row) * pitch + start + column) * COUNT));
}
