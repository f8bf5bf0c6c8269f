// y_k = exp(x_k) / sum_j exp(x_j) over the classes of each place, and dx = y (dy - sum_j dy_j y_j).
//
// Layout and mapping: softmax.cuh; y may be x, dx may be dy.
// Bound: memory; forward 8 bytes an element and 4 more where the classes of the places under way do not fit in the
// caches, backward 12 and 8 more.
#include "softmax.cuh"

template <int LANES>
__global__ void __launch_bounds__(THREADS)
softmax_forward(SCORES, const float* x, float* y) {
  for_each_place<LANES>(places, classes, inner, inner_reciprocal, [&](Place place) {
    const Exponents found = exponents_of_place<LANES>(x + place.first, classes, inner);
    for (int k = lane_of_place<LANES>(); k < classes; k += LANES) {
      const int64 at = place.first + int64(k) * inner;
      y[at] = found.probability(x[at]);
    }
  });
}

template <int LANES>
__global__ void __launch_bounds__(THREADS)
softmax_backward(SCORES, const float* __restrict__ y, const float* dy, float* dx) {
  for_each_place<LANES>(places, classes, inner, inner_reciprocal, [&](Place place) {
    float along = 0;
    for (int k = lane_of_place<LANES>(); k < classes; k += LANES) {
      const int64 at = place.first + int64(k) * inner;
      along = fmaf(dy[at], y[at], along);
    }
    along = sum_of_place<LANES>(along);
    for (int k = lane_of_place<LANES>(); k < classes; k += LANES) {
      const int64 at = place.first + int64(k) * inner;
      dx[at] = y[at] * (dy[at] - along);
    }
  });
}
