// Convolution in fp32 on the ordinary cores, forward and backward to x, as implicit matrix products: no unrolled copy of
// the images is made.
//
// Layout: x (N, C, H, W), w (K, C / group, R, S), y (N, K, P, Q), all dense; the filters are copied into the order in
// which they are read. A product's columns are cells of all images; the cells that they meet are looked up in a table of
// terms.
// Mapping: conv_tile.cuh; blockIdx.y is the group.
// Bound: 2 K (C / group) R S N P Q FLOPs; a block reads BM + BN floats for each term of its BM BN results.
#include "conv_tile.cuh"
#include "epilogue.cuh"
#include "moments.cuh"
#include "unrolled.cuh"

// One term of the sums of a class: a channel and a kernel position. It lies `offset` floats, or `row` and `column` cells
// in its channel, behind a column's first source cell. `bits` has the bit of its row of the kernel among the low ones,
// and that of its column among the high ones. Terms that only fill up a tile are outside every image, by `bits` and by
// `row`.
struct Term {
  int offset;
  unsigned bits;
  int row, column;
  static constexpr int ROW_BITS = 16;  // the other 15 are columns'; the last one stands for no column
};
// The output cells (first_row + u ROW_STEP, first_column + v COLUMN_STEP) of all images, which have the same taps: rows
// of the kernel that lie `tap_row_step` source rows apart, from `first_tap_row` on, and columns likewise. A forward pass
// has one class, a backward pass to x one for each remainder of its cells by the stride. `padded_terms`: in the table.
struct CellClass {
  int terms, padded_terms, first_term, rows, columns, first_row, first_column, first_weight;
  int tap_rows, first_tap_row, tap_row_step, tap_columns, first_tap_column, tap_column_step;
};
// A group's channels of some images, and the cells between the first source cells of neighbouring output cells.
struct Source {
  const float* data;
  Images images;
  int row_step, column_step;
};

// The filters' side of a product: `turned`, four rows at once. Tiles are fetched in order, all terms of each are there.
template <int BM, int BK, int THREADS>
struct FilterTile {
  static constexpr int EACH = BM * BK / (4 * THREADS), ACROSS = BM / 4, APART = THREADS / ACROSS;
  static_assert(BM * BK % (4 * THREADS) == 0 && THREADS % ACROSS == 0);
  const float* turned;  // the first of this thread in the next tile
  int pitch;            // floats from one term to the next; 0 where the rows are beyond the last
  Packed<float, 4> next[EACH] = {};

  DEVICE FilterTile(const float* bank, int pitch, int row0) {
    const int row = row0 + threadIdx.x % ACROSS * 4, term = threadIdx.x / ACROSS;
    turned = bank + (int64(term) * pitch + row);
    this->pitch = row < pitch ? pitch : 0;
  }
  DEVICE void fetch() {
    if (pitch == 0) return;
#pragma unroll
    for (int i = 0; i < EACH; ++i, turned += APART * pitch) next[i] = load_packed<4>(turned);
  }
  template <class Tile>
  DEVICE void keep(Tile& tile) const {
#pragma unroll
    for (int i = 0; i < EACH; ++i)
      store_packed(&tile[threadIdx.x / ACROSS + i * APART][threadIdx.x % ACROSS * 4], next[i]);
  }
};

// The images' side: each thread follows one column, whose first source cell it works out once; the table of terms says
// where to go from there. A whole warp is at the same term. Tiles are fetched in order.
template <int BN, int BK, int THREADS>
struct Follower {
  static constexpr int EACH = BN * BK / THREADS, TERMS_APART = THREADS / BN;
  static_assert(THREADS % BN == 0);
  const float* first;  // may lie outside the images: what a term adds may be needed to come inside
  const Term* terms;   // the first of this thread in the next tile
  int row, column;
  bool there;
  float next[EACH];

  DEVICE Follower(const Source& source, const Term* terms, const CellClass& cells, unsigned column_count,
                  unsigned column0)
      : terms(terms + threadIdx.x / BN) {
    const unsigned at = column0 + threadIdx.x % BN, plane = cells.rows * cells.columns, cell = at % plane;
    row = static_cast<int>(cell / cells.columns) * source.row_step;
    column = static_cast<int>(cell % cells.columns) * source.column_step;
    first = source.data + (at / plane * source.images.floats() + int64(row) * source.images.columns + column);
    there = at < column_count;
  }
  template <class Tile>
  DEVICE void keep(Tile& tile) const {
#pragma unroll
    for (int i = 0; i < EACH; ++i) tile[threadIdx.x / BN + i * TERMS_APART][threadIdx.x % BN] = next[i];
  }
};
// Kernels of up to 16 rows and 15 columns: what lies inside the image is a mask.
template <int BN, int BK, int THREADS>
struct MaskedTile : Follower<BN, BK, THREADS> {
  using Base = Follower<BN, BK, THREADS>;
  unsigned mask = 0;

  DEVICE MaskedTile(const Source& source, const Term* terms, const CellClass& cells, unsigned column_count,
                    unsigned column0)
      : Base(source, terms, cells, column_count, column0) {
    int at = this->row + cells.first_tap_row;
    for (int i = 0; i < cells.tap_rows; ++i, at += cells.tap_row_step)
      mask |= unsigned(this->there && unsigned(at) < unsigned(source.images.rows)) << i;
    at = this->column + cells.first_tap_column;
    for (int i = 0; i < cells.tap_columns; ++i, at += cells.tap_column_step)
      mask |= unsigned(unsigned(at) < unsigned(source.images.columns)) << (Term::ROW_BITS + i);
  }
  DEVICE void fetch() {
#pragma unroll
    for (int i = 0; i < Base::EACH; ++i) {
      const auto term = load_packed<2>(&this->terms[i * Base::TERMS_APART].offset);
      this->next[i] = (mask & term.v[1]) == unsigned(term.v[1]) ? this->first[term.v[0]] : 0.0f;
    }
    this->terms += BK;
  }
};
// Kernels of any size.
template <int BN, int BK, int THREADS>
struct ComparedTile : Follower<BN, BK, THREADS> {
  using Base = Follower<BN, BK, THREADS>;
  int rows, columns;

  DEVICE ComparedTile(const Source& source, const Term* terms, const CellClass& cells, unsigned column_count,
                      unsigned column0)
      : Base(source, terms, cells, column_count, column0),
        rows(this->there ? source.images.rows : 0),
        columns(source.images.columns) {}
  DEVICE void fetch() {
#pragma unroll
    for (int i = 0; i < Base::EACH; ++i) {
      const auto term = load_packed<4>(&this->terms[i * Base::TERMS_APART].offset);
      const bool inside = unsigned(this->row + term.v[2]) < unsigned(rows) &&
                          unsigned(this->column + term.v[3]) < unsigned(columns);
      this->next[i] = inside ? this->first[term.v[0]] : 0.0f;
    }
    this->terms += BK;
  }
};

// The images' side of 1x1 filters with stride 1 and no pad: four cells at once, which needs planes of a multiple of
// four cells at addresses of 16 bytes. Term t is channel t.
template <int BN, int BK, int THREADS>
struct PlaneTile {
  static constexpr int EACH = BN * BK / (4 * THREADS), ACROSS = BN / 4, TERMS_APART = THREADS / ACROSS;
  static_assert(BN * BK % (4 * THREADS) == 0 && THREADS % ACROSS == 0);
  const float* first;  // of this thread in the next tile
  int plane, left;     // left: terms from there on
  Packed<float, 4> next[EACH];

  DEVICE PlaneTile(const Source& source, const Term*, const CellClass& cells, unsigned column_count, unsigned column0)
      : plane(source.images.plane()) {
    const unsigned at = column0 + threadIdx.x % ACROSS * 4;
    const int term = threadIdx.x / ACROSS;
    left = at < column_count ? cells.terms - term : 0;
    first = source.data + (at / plane * source.images.floats() + int64(term) * plane + at % plane);
  }
  DEVICE void fetch() {
#pragma unroll
    for (int i = 0; i < EACH; ++i)
      next[i] = i * TERMS_APART < left ? load_packed<4>(first + int64(i) * TERMS_APART * plane) : Packed<float, 4>{};
    first += int64(BK) * plane;
    left -= BK;
  }
  template <class Tile>
  DEVICE void keep(Tile& tile) const {
#pragma unroll
    for (int i = 0; i < EACH; ++i)
      store_packed(&tile[threadIdx.x / ACROSS + i * TERMS_APART][threadIdx.x % ACROSS * 4], next[i]);
  }
};

// Which results a block computes: rows are a group's filters or channels, columns the cells of a class in all images.
template <int BM, int BN>
struct Share {
  unsigned plane, column_count, column0;
  int row0;
  DEVICE Share(const CellClass& cells, int images, int rows) {
    const unsigned down = divide_up(rows, BM);  // tiles of the same cells are next to each other
    plane = cells.rows * cells.columns;
    column_count = images * plane;
    row0 = blockIdx.x % down * BM;
    column0 = blockIdx.x / down * BN;
  }
};

// Stores a thread's sums, after their lines; COUNT of a row at once. Addresses are stepped along, not kept for all.
// first: the target's number of the group's first channel in the first image.
template <int COUNT, class Sums, class Place>
DEVICE void store_images(const Sums& sums, const CellClass& cells, const Place& share, int rows, const Images& images,
                         float* target, int64 first, int row_step, int column_step, const Ending& ending) {
  unrolled<Sums::COLUMNS / COUNT>([&](int part) {
    const int j = part * COUNT;
    const unsigned column = share.column0 + Sums::column(j), n = column / share.plane, cell = column % share.plane;
    if (column >= share.column_count) return;
    const int r = cells.first_row + cell / cells.columns * row_step;
    const int col = cells.first_column + cell % cells.columns * column_step;
    int row = share.row0 + Sums::row(0);
    float* to = target + first + n * images.floats() + (int64(row) * images.rows + r) * images.columns + col;
    unrolled<Sums::ROWS>([&](int i) {
      if (i > 0) {
        const int step = Sums::row_step(i);
        row += step;
        to += int64(step) * images.plane();
      }
      if (row >= rows) return;
      Packed<float, COUNT> y;
#pragma unroll
      for (int e = 0; e < COUNT; ++e) y.v[e] = sums.sums[i][j + e];
      ending.store_to(to, target, y);
    });
  });
}

// What the lines of a thread's rows make of its sums. At the stores they would take registers beside the addresses.
template <class Sums>
DEVICE void apply_lines(Sums& sums, int row0, int rows, const Ending& ending) {
  unrolled<Sums::ROWS>([&](int i) {
    const int row = row0 + Sums::row(i);
    if (row >= rows) return;
    const Line line = ending.line(blockIdx.y * rows + row);
#pragma unroll
    for (int j = 0; j < Sums::COLUMNS; ++j) sums.sums[i][j] = line.at(sums.sums[i][j]);
  });
}

// Leaves the moments of a block's sums, as the lines have made them, in each of its channels; `kept`: shared memory that
// nobody uses any more.
template <int BM, int BN, class Sums, class Place>
DEVICE void leave_moments(const Sums& sums, const Place& share, int rows, float* kept, float* moments) {
  const int down = divide_up(rows, BM), first = blockIdx.y * rows + share.row0;
  const int across = threadIdx.x / 32 % (Sums::ACROSS / 8), parts = gridDim.x / down;
  unsigned inside = 0;
#pragma unroll
  for (int j = 0; j < Sums::COLUMNS; ++j)
    inside |= unsigned(share.column0 + Sums::column(j) < share.column_count) << j;
  const Held<1, 4, Sums::COLUMNS> held(inside);
  unrolled<Sums::ROWS>([&](int i) {
    const int row = Sums::row(i);
    const Moments all = held.moments([&](int j) { return sums.sums[i][j]; });
    if (threadIdx.x % 8 == 0) all.store(kept + (across * BM + row) * Moments::NUMBERS);
  });
  merge_kept<Sums::ACROSS / 8, BM>(kept, rows - share.row0, first, nullptr, moments, blockIdx.x / down, parts);
}

// target = filters x source, and what epilogue.cuh makes of it: the forward pass, and the backward pass to x, whose
// source is dy. blockIdx.z is the class of cells. `packed`: four neighbouring columns are four neighbouring cells of
// target at an address of 16 bytes, and so with the residual. `moments`, null but for some forward passes, gets those of
// each tile in each channel. What is needed after the sums waits in shared memory, or is worked out anew: registers are
// scarce.
template <template <int, int, int> class SourceTile, int BM, int BN, int BK, int TM, int TN, bool LONG>
__global__ void __launch_bounds__(BM / TM * (BN / TN), BM / TM * (BN / TN) == 128 ? 3 : 2)
convolve(int images, const CellClass* __restrict__ classes, const Term* __restrict__ terms,
         const float* __restrict__ turned, const float* __restrict__ source, int source_channels, int source_rows,
         int source_columns, int row_step, int column_step, float* __restrict__ target, int target_channels,
         int target_rows, int target_columns, int target_row_step, int target_column_step,
         ENDING, bool packed, float* __restrict__ moments) {
  using Sums = TileSums<BM, BN, BK, TM, TN>;
  constexpr int THREADS = Sums::THREADS;
  __shared__ __align__(16) typename Sums::A a_tile[2];
  __shared__ __align__(16) typename Sums::B b_tile[2];
  __shared__ CellClass cells;
  if (threadIdx.x == 0) cells = classes[blockIdx.z];
  __syncthreads();
  const int groups = gridDim.y, group = blockIdx.y, rows = target_channels / groups, terms_here = cells.terms;
  const Share<BM, BN> share(cells, images, rows);
  if (share.column0 >= share.column_count) return;  // another class has more cells
  source += int64(group) * (source_channels / groups) * source_rows * source_columns;
  const int pitch = divide_up(rows, 4) * 4;
  turned += cells.first_weight + int64(group) * pitch * cells.padded_terms;

  Sums sums;
  FilterTile<BM, BK, THREADS> a_next(turned, pitch, share.row0);
  SourceTile<BN, BK, THREADS> b_next({source, {source_channels, source_rows, source_columns}, row_step, column_step},
                                     terms + cells.first_term, cells, share.column_count, share.column0);
  auto fetch = [&] {
    a_next.fetch();
    b_next.fetch();
  };
  auto keep = [&](int slot) {
    a_next.keep(a_tile[slot]);
    b_next.keep(b_tile[slot]);
  };
  if (terms_here > 0) {
    fetch();
    keep(0);
    __syncthreads();
  }
  int slot = 0;
  for (int left = terms_here; left > 0; left -= BK, slot ^= 1) {
    const bool more = left > BK;
    if (more) fetch();
    sums.multiply(a_tile[slot], b_tile[slot]);
    if (more) keep(slot ^ 1);
    __syncthreads();
  }

  const Share<BM, BN> stored(cells, images, rows);
  const Images target_images{target_channels, target_rows, target_columns};
  const int64 first = int64(group) * rows * target_images.plane();
  const Ending ending LONG_OR_SHORT(LONG);
  apply_lines(sums, stored.row0, rows, ending);
  if (packed)
    store_images<4>(sums, cells, stored, rows, target_images, target, first, target_row_step, target_column_step, ending);
  else
    store_images<1>(sums, cells, stored, rows, target_images, target, first, target_row_step, target_column_step, ending);
  if constexpr (LONG) {
    if (moments) leave_moments<BM, BN>(sums, stored, rows, &a_tile[0][0][0], moments);
  }
}

// The filters of each class of cells (blockIdx.z) as `convolve` reads them: for each group (blockIdx.y) its terms and
// some of zeros, each with all rows and zeros up to a multiple of four. `places`: where the weight of each term lies among
// a group's filters, for the first row; rows are `row_step` weights apart. A block turns squares of 32 x 32. Bound:
// memory; 8 bytes a weight.
template <int = 0>
__global__ void __launch_bounds__(256)
turn_filters(const CellClass* __restrict__ classes, const int* __restrict__ places, int rows, int row_step,
             int group_floats, const float* __restrict__ weights, float* __restrict__ turned) {
  __shared__ float square[32][33];
  const CellClass cells = classes[blockIdx.z];
  const int pitch = divide_up(rows, 4) * 4, across = divide_up(pitch, 32);
  const int squares = across * divide_up(cells.padded_terms, 32);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  weights += int64(blockIdx.y) * group_floats;
  turned += cells.first_weight + int64(blockIdx.y) * pitch * cells.padded_terms;
  for (int at = blockIdx.x; at < squares; at += gridDim.x) {
    const int row0 = at % across * 32, term0 = at / across * 32, term = term0 + lane;
    const int place = term < cells.terms ? places[cells.first_term + term] : 0;
    for (int i = warp; i < 32; i += 8)
      square[i][lane] = term < cells.terms && row0 + i < rows ? weights[place + int64(row0 + i) * row_step] : 0.0f;
    __syncthreads();
    for (int i = warp; i < 32; i += 8)
      if (term0 + i < cells.padded_terms && row0 + lane < pitch)
        turned[int64(term0 + i) * pitch + row0 + lane] = square[lane][i];
    __syncthreads();
  }
}
