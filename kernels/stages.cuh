// A block's steps through tiles of shared memory, of which several are copied ahead.
#pragma once

// Which of the STAGES tiles a step takes, and the parity of the mbarriers' phase that it is in it.
template <int STAGES>
struct Turn {
  int stage = 0, parity = 0;
  DEVICE void advance() {
    if (++stage == STAGES) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Calls multiply(step) for each of so many steps once its tile is there for all threads, while the copies that
// copy_step(step) has begun (cp.async) for the next STAGES - 1 are under way. Tiles take turns: STAGES of them.
template <int STAGES, class Copy, class Multiply>
DEVICE void run_stages(int steps, const Copy& copy_step, const Multiply& multiply) {
#pragma unroll
  for (int step = 0; step < STAGES - 1; ++step) {
    if (step < steps) copy_step(step);
    cp_async_commit();  // also where nothing was copied: the waits count groups
  }
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<STAGES - 2>();
    __syncthreads();  // the tile is there for all, and all are done with the one that is overwritten next
    if (step + STAGES - 1 < steps) copy_step(step + STAGES - 1);
    cp_async_commit();
    multiply(step);
  }
}
