// Rows of a learned table, picked by number, and the gradients of the table.
//
// Layout: numbers (count), kept as floats; table (rows, columns); y and dy (count, columns).
// Mapping: `embed_forward`, a pack of columns for each thread; `embed_backward`, a block for each row of the table, or
// for each number, and 256 columns: it looks through the numbers and adds up the rows of dy where its own stands, in
// their order. Of the blocks of equal numbers the first one works.
// Bound: memory; forward 8 bytes an element; backward 4 bytes an element of dy, and 4 count bytes (of cache) a block.
#include "division.cuh"
#include "elementwise.cuh"

// The row that a number names, cut to an integer; -1 for a number that names none.
DEVICE int row_of(float number, int rows) { return number > -1 && number < rows ? static_cast<int>(number) : -1; }

// y = table[number] + bias, unless that is null; NaN for a number that names no row. Columns count packs.
template <int COUNT>
__global__ void __launch_bounds__(256)
embed_forward(unsigned n, int rows, unsigned columns, uint64 columns_r, const float* __restrict__ numbers,
              const float* __restrict__ table, const float* __restrict__ bias, float* __restrict__ y) {
  for_each_pack<1>(n, [&](int64 i, auto) {
    unsigned place = static_cast<unsigned>(i);
    const unsigned column = Divisor{columns, columns_r}.split(place);
    const int row = row_of(numbers[place], rows);
    Packed<float, COUNT> values;
#pragma unroll
    for (float& value : values.v) value = __int_as_float(0x7fc00000);
    if (row >= 0) values = load_packed<COUNT>(table + (int64(row) * columns + column) * COUNT);
    if (bias) {
      const auto added = load_packed<COUNT>(bias + column * COUNT);
#pragma unroll
      for (int j = 0; j < COUNT; ++j) values.v[j] += added.v[j];
    }
    store_packed(y + i * COUNT, values);
  });
}

// dtable[row] += the sum of dy over the places where the number is that row. BY_ROW: blockIdx.x is a row of the table,
// else a place among the numbers. blockIdx.y: which 256 columns.
template <bool BY_ROW>
__global__ void __launch_bounds__(256)
embed_backward(int count, int rows, int columns, const float* __restrict__ numbers, const float* __restrict__ dy,
               float* __restrict__ dtable) {
  __shared__ unsigned masks[8];
  const int thread = threadIdx.x, column = blockIdx.y * 256 + thread;
  const int mine = BY_ROW ? static_cast<int>(blockIdx.x) : row_of(numbers[blockIdx.x], rows);
  const int begin = BY_ROW ? 0 : static_cast<int>(blockIdx.x);
  if (mine < 0) return;
  if constexpr (!BY_ROW) {
    bool earlier = false;
    for (int place = thread; place < begin; place += 256) earlier |= row_of(numbers[place], rows) == mine;
    if (__syncthreads_or(earlier)) return;
  }
  float sum = 0;
  bool found = false;
  for (int base = begin; base < count; base += 256) {
    const bool stands = base + thread < count && row_of(numbers[base + thread], rows) == mine;
    const unsigned lanes = __ballot_sync(FULL_WARP, stands);
    if (thread % 32 == 0) masks[thread / 32] = lanes;
    __syncthreads();
    for (int warp = 0; warp < 8; ++warp)
      for (unsigned left = masks[warp]; left != 0; left &= left - 1) {
        const int place = base + warp * 32 + __ffs(left) - 1;
        if (column < columns) sum += dy[int64(place) * columns + column];
        found = true;
      }
    __syncthreads();
  }
  if (found && column < columns) dtable[int64(mine) * columns + column] += sum;
}
