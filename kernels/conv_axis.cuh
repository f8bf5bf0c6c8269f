// Which cells of the input a cell of the output meets, along one axis of a convolution: forward, and backward to the
// bottom, where with a stride the cells whose distance is a multiple of it, a phase, meet the same taps.
#pragma once
#include "netc.cuh"

// How the cells of one axis meet. Cell i of this phase is number out_first + i out_step of the output's; its tap t,
// number tap_first + t tap_jump of the filter's, meets cell in_first + i in_step + t tap_step of the input.
struct Axis {
  int cells, out_first, out_step, in_first, in_step, in_size, taps, tap_first, tap_jump, tap_step;
};
DEVICE Axis forward_axis(int in_size, int out_size, int taps, int stride, int pad, int dilation) {
  return {out_size, 0, 1, -pad, stride, in_size, taps, 0, 1, dilation};
}
DEVICE Axis backward_axis(int in_size, int out_size, int taps, int stride, int pad, int dilation, int phase) {
  Axis axis{divide_up(out_size - phase, stride), phase, stride, 0, 1, in_size, 0, 0, 1, 0};
  for (int tap = 0; tap < taps; ++tap) {
    const int met = phase + pad - tap * dilation;
    if (met % stride != 0) continue;
    if (axis.taps == 0) {
      axis.tap_first = tap;
      axis.in_first = met / stride;
    } else if (axis.taps == 1) {
      axis.tap_jump = tap - axis.tap_first;
      axis.tap_step = met / stride - axis.in_first;
    }
    ++axis.taps;
  }
  return axis;
}
