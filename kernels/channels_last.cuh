// Arrays (rows, channels), channels side by side: which elements a thread takes, so that neighbours read whole lines.
//
// The threads of a block stand in lines of `lanes`, a power of two of at most 32, and each has COUNT neighbouring
// channels of its own from the first to the last row. blockIdx.x numbers the tiles of lanes COUNT channels, blockIdx.y
// the shares of the rows.
#pragma once
#include "netc.cuh"

template <int COUNT>
struct Column {
  int channel;  // the first one
  bool inside;  // whether there is such a channel; COUNT > 1 needs a multiple of it
  int line, lines;

  DEVICE Column(int lanes, int channels)
      : channel((int(blockIdx.x) * lanes + int(threadIdx.x) % lanes) * COUNT),
        inside(channel < channels),
        line(int(threadIdx.x) / lanes),
        lines(int(blockDim.x) / lanes) {}

  // Calls body(element) for the first element of every row of the block's share that is this thread's.
  template <int UNROLL, class Body>
  DEVICE void for_each_row(int rows, int channels, const Body& body) const {
    if (!inside) return;
    const unsigned share = divide_up(unsigned(rows), gridDim.y), begin = min(blockIdx.y * share, unsigned(rows));
    const unsigned end = min(begin + share, unsigned(rows));
#pragma unroll UNROLL
    for (unsigned row = begin + line; row < end; row += lines) body(int64(row) * channels + channel);
  }
};
