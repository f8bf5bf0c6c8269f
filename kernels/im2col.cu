// The windows of a convolution laid out as columns, and back.
//
// Layout: x (planes, H, W); y (planes, R, S, P, Q). Mapping: one thread for each element of what is written.
// Bound: memory; forward 4 bytes an element of y and less than that for x (neighbours read the same lines); backward 4
// bytes an element of y and of x.
#include "division.cuh"
#include "elementwise.cuh"

// What an output reads along one axis: cell out * stride + kernel * dilation - pad.
struct Step {
  int size, stride, pad, dilation;
  DEVICE int cell(unsigned out, unsigned kernel) const {
    return static_cast<int>(out) * stride + static_cast<int>(kernel) * dilation - pad;
  }
  DEVICE bool has(int cell) const { return static_cast<unsigned>(cell) < static_cast<unsigned>(size); }
};

template <int COUNT>
__global__ void __launch_bounds__(256)
im2col(unsigned n, unsigned r, uint64 r_r, unsigned s, uint64 s_r, unsigned p, uint64 p_r, unsigned q, uint64 q_r, int h,
       int stride_h, int pad_h, int dilation_h, int w, int stride_w, int pad_w, int dilation_w,
       const float* __restrict__ x, float* __restrict__ y) {
  const Step down = {h, stride_h, pad_h, dilation_h}, across = {w, stride_w, pad_w, dilation_w};
  for_each_pack<COUNT>(n, [&](int64 i, auto) {
    unsigned plane = static_cast<unsigned>(i);
    const unsigned out_w = Divisor{q, q_r}.split(plane), out_h = Divisor{p, p_r}.split(plane);
    const unsigned kernel_w = Divisor{s, s_r}.split(plane), kernel_h = Divisor{r, r_r}.split(plane);
    const int row = down.cell(out_h, kernel_h), column = across.cell(out_w, kernel_w);
    y[i] = down.has(row) && across.has(column) ? x[(int64(plane) * h + row) * w + column] : 0.0f;
  });
}

// x = the sum over all places where each of its cells went.
template <int COUNT>
__global__ void __launch_bounds__(256)
col2im(unsigned n, unsigned h, uint64 h_r, unsigned w, uint64 w_r, int r, int s, int p, int q, unsigned stride_h,
       uint64 stride_h_r, int pad_h, int dilation_h, unsigned stride_w, uint64 stride_w_r, int pad_w, int dilation_w,
       const float* __restrict__ y, float* __restrict__ x) {
  const Divisor down = {stride_h, stride_h_r}, across = {stride_w, stride_w_r};
  for_each_pack<COUNT>(n, [&](int64 i, auto) {
    unsigned plane = static_cast<unsigned>(i);
    const int column = static_cast<int>(Divisor{w, w_r}.split(plane)) + pad_w;
    const int row = static_cast<int>(Divisor{h, h_r}.split(plane)) + pad_h;
    float sum = 0;
    for (int kernel_h = 0; kernel_h < r && kernel_h * dilation_h <= row; ++kernel_h) {
      unsigned out_h = row - kernel_h * dilation_h;
      if (down.split(out_h) != 0 || out_h >= static_cast<unsigned>(p)) continue;
      for (int kernel_w = 0; kernel_w < s && kernel_w * dilation_w <= column; ++kernel_w) {
        unsigned out_w = column - kernel_w * dilation_w;
        if (across.split(out_w) != 0 || out_w >= static_cast<unsigned>(q)) continue;
        sum += y[(((int64(plane) * r + kernel_h) * s + kernel_w) * p + out_h) * q + out_w];
      }
    }
    x[i] = sum;
  });
}
