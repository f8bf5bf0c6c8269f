// What moves a layer's random stream on from one pass to the next, on the device, so that a captured graph draws anew.
#include "netc.cuh"

// One thread: the number of the next draw.
extern "C" __global__ void advance_draw(int64* draw) { *draw += 1; }
