// What recorded work came to, one row for each run, until the host reads the rows.
//
// Layout: row r of all that were ever written lies at `rows` + (r % kept) * width; numbers of 4 bytes, copied bit by
// bit. `written` counts the rows. Mapping: one thread, whose loads do not wait for each other. Bound: latency.
#include "netc.cuh"

// Puts up to four numbers into the row that is being written, from place `first` on; `last` of a row's launches ends it.
extern "C" __global__ void write_row(int* written, unsigned* rows, int kept, int width, int first, bool last,
                                     const unsigned* a, const unsigned* b, const unsigned* c, const unsigned* d) {
  unsigned* row = rows + *written % kept * width + first;
  if (a) row[0] = *a;
  if (b) row[1] = *b;
  if (c) row[2] = *c;
  if (d) row[3] = *d;
  if (last) *written += 1;
}
