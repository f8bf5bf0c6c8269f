// Losses and the accuracy, forward and backward; no figure leaves the device.
//
// A forward kernel leaves each block's share of the sum and of what counts in `sums` and `counts`; `finish_mean` makes
// them the top, and for backward the number that the sum was divided by.
//
// A label that is neither a class nor ignored makes the sum NaN, its place gets no gradient, and it is noted in
// `WrongLabels`, of which the host makes the layer's error when it reads the NaN.
//
// Layout: scores are (outer, classes, inner), labels (outer, inner), as floats; the others are flat arrays of n floats.
// Mapping: softmax.cuh for scores, for_each_pack for flat arrays.
// Bound: memory. Softmax loss: forward 4 bytes a score, backward 8; Euclidean: 12 and 8 (12 for both bottoms); sigmoid
// cross entropy: 12 and 12; accuracy: 4 a score.
#include "elementwise.cuh"
#include "softmax.cuh"

constexpr float SMALLEST_PROBABILITY = 1.175494351e-38f;  // Caffe clamps there

// A label as the layers read it: cut to an integer, of which `ignored` does not count where there is one.
struct Label {
  int index;  // of the class, -1 where there is none
  bool counts;
};
DEVICE Label read_label(float label, int classes, bool ignores, int ignored) {
  if (ignores && truncf(label) == static_cast<float>(ignored)) return {-1, false};
  return {label > -1 && label < static_cast<float>(classes) ? static_cast<int>(label) : -1, true};
}
DEVICE float not_a_number() { return __int_as_float(0x7fc00000); }

// The labels that are no classes since the host looked last.
struct WrongLabels {
  uint64 first;  // the place of the first in the upper half, its bits in the lower
  int count;
  int unused;
};
DEVICE void note_wrong(WrongLabels* wrong, unsigned place, float label) {
  atomicMin(&wrong->first, static_cast<uint64>(place) << 32 | static_cast<unsigned>(__float_as_int(label)));
  atomicAdd(&wrong->count, 1);
}

// This block's share, from every thread's. All threads must call it.
DEVICE void store_share(float sum, int count, double* sums, int* counts) {
  const double whole = block_sum<THREADS>(static_cast<double>(sum));
  const int counted = block_sum<THREADS>(count);
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = whole;
    counts[blockIdx.x] = counted;
  }
}

// One block: the sum of all shares, divided by what counts or, where `fixed` is not negative, by that; never by less
// than 1. `normalizer` may be null.
template <int = 0>
__global__ void __launch_bounds__(THREADS)
finish_mean(int parts, const double* __restrict__ sums, const int* __restrict__ counts, float fixed,
            float* __restrict__ mean, float* __restrict__ normalizer) {
  double mine = 0;
  int64 count = 0;
  for (int i = threadIdx.x; i < parts; i += THREADS) mine += sums[i], count += counts[i];
  const double sum = block_sum<THREADS>(mine);
  const int64 counted = block_sum<THREADS>(count);
  if (threadIdx.x != 0) return;
  const double divisor = fmax(fixed >= 0 ? static_cast<double>(fixed) : static_cast<double>(counted), 1.0);
  *mean = static_cast<float>(sum / divisor);
  if (normalizer) *normalizer = static_cast<float>(divisor);
}

// `exponents` keeps of each place the largest score and the sum of exponents, from which backward makes the
// probabilities anew; `index` its class, -1 where it gets no gradient. class_weights, probability, exponents and index
// may be null, the last two together.
template <int LANES>
__global__ void __launch_bounds__(THREADS)
softmax_loss_forward(SCORES, const float* __restrict__ x, const float* __restrict__ labels,
                     bool ignores, int ignored, const float* __restrict__ class_weights,
                     float* __restrict__ probability, Exponents* __restrict__ exponents, int* __restrict__ index,
                     double* __restrict__ sums, int* __restrict__ counts, WrongLabels* wrong) {
  float sum = 0;
  int count = 0;
  for_each_place<LANES>(places, classes, inner, inner_reciprocal, [&](Place place) {
    const float* scores = x + place.first;
    const Exponents found = exponents_of_place<LANES>(scores, classes, inner);
    if (probability)
      for (int k = lane_of_place<LANES>(); k < classes; k += LANES)
        probability[place.first + int64(k) * inner] = found.probability(scores[int64(k) * inner]);
    if (lane_of_place<LANES>() != 0) return;
    const Label label = read_label(labels[place.number], classes, ignores, ignored);
    count += label.counts;
    if (label.index >= 0) {
      const float chosen = found.probability(scores[int64(label.index) * inner]);
      const float loss = -logf(chosen < SMALLEST_PROBABILITY ? SMALLEST_PROBABILITY : chosen);
      sum += class_weights ? loss * class_weights[label.index] : loss;
    } else if (label.counts) {
      sum = not_a_number();
      note_wrong(wrong, place.number, labels[place.number]);
    }
    if (exponents) {
      exponents[place.number] = found;
      index[place.number] = label.index;
    }
  });
  store_share(sum, count, sums, counts);
}

template <int LANES>
__global__ void __launch_bounds__(THREADS)
softmax_loss_backward(SCORES, const float* __restrict__ x,
                      const Exponents* __restrict__ exponents, const int* __restrict__ index,
                      const float* __restrict__ class_weights, const float* __restrict__ loss_weight,
                      const float* __restrict__ normalizer, float* __restrict__ dx) {
  const float share = *loss_weight / *normalizer;
  for_each_place<LANES>(places, classes, inner, inner_reciprocal, [&](Place place) {
    const Exponents found = exponents[place.number];
    const int label = index[place.number];
    const float scale = class_weights && label >= 0 ? class_weights[label] * share : share;
    for (int k = lane_of_place<LANES>(); k < classes; k += LANES) {
      const int64 at = place.first + int64(k) * inner;
      dx[at] = label < 0 ? 0.0f : scale * (found.probability(x[at]) - static_cast<float>(k == label));
    }
  });
}

// How many places have their class among the top_k best scores; what is equal counts against it.
template <int LANES>
__global__ void __launch_bounds__(THREADS)
accuracy_forward(SCORES, const float* __restrict__ x, const float* __restrict__ labels,
                 bool ignores, int ignored, int top_k, double* __restrict__ sums, int* __restrict__ counts,
                 WrongLabels* wrong) {
  float sum = 0;
  int count = 0;
  for_each_place<LANES>(places, classes, inner, inner_reciprocal, [&](Place place) {
    const float* scores = x + place.first;
    const Label label = read_label(labels[place.number], classes, ignores, ignored);
    if (label.counts && label.index < 0 && lane_of_place<LANES>() == 0)
      note_wrong(wrong, place.number, labels[place.number]);
    const float own = label.index < 0 ? not_a_number() : scores[int64(label.index) * inner];
    float rank = 0;
    for (int k = lane_of_place<LANES>(); k < classes; k += LANES) rank += scores[int64(k) * inner] >= own;
    rank = sum_of_place<LANES>(rank);
    if (lane_of_place<LANES>() != 0) return;
    count += label.counts;
    if (label.index >= 0)
      sum += rank <= static_cast<float>(top_k);
    else if (label.counts)
      sum = not_a_number();
  });
  store_share(sum, count, sums, counts);
}

// Half the sum of (a - b)^2; the difference is kept for backward.
template <int COUNT>
__global__ void __launch_bounds__(THREADS)
euclidean_forward(int64 n, const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ difference,
                  double* __restrict__ sums, int* __restrict__ counts) {
  float sum = 0;
  for_each_pack<COUNT>(n, [&](int64 i, auto pack) {
    constexpr int count = decltype(pack)::count;
    auto values = load_packed<count>(a + i);
    const auto others = load_packed<count>(b + i);
#pragma unroll
    for (int j = 0; j < count; ++j) {
      values.v[j] -= others.v[j];
      sum = fmaf(0.5f * values.v[j], values.v[j], sum);
    }
    store_packed(difference + i, values);
  });
  store_share(sum, 0, sums, counts);
}

// da = scale difference, db = -da; either may be null.
template <int COUNT>
__global__ void __launch_bounds__(THREADS)
euclidean_backward(int64 n, const float* __restrict__ difference, const float* __restrict__ loss_weight, float images,
                   float* __restrict__ da, float* __restrict__ db) {
  const float scale = *loss_weight / images;
  for_each_pack<COUNT>(n, [&](int64 i, auto pack) {
    constexpr int count = decltype(pack)::count;
    auto values = load_packed<count>(difference + i);
#pragma unroll
    for (float& value : values.v) value *= scale;
    if (da) store_packed(da + i, values);
#pragma unroll
    for (float& value : values.v) value = -value;
    if (db) store_packed(db + i, values);
  });
}

// A target that, cut to an integer, is `ignored` does not count.
DEVICE bool target_counts(float target, bool ignores, int ignored) {
  return !ignores || truncf(target) != static_cast<float>(ignored);
}

template <int COUNT>
__global__ void __launch_bounds__(THREADS)
sigmoid_loss_forward(int64 n, const float* __restrict__ x, const float* __restrict__ targets, bool ignores, int ignored,
                     float* __restrict__ sigmoid, double* __restrict__ sums, int* __restrict__ counts) {
  float sum = 0;
  int counted = 0;
  for_each_pack<COUNT>(n, [&](int64 i, auto pack) {
    constexpr int count = decltype(pack)::count;
    auto values = load_packed<count>(x + i);
    const auto wanted = load_packed<count>(targets + i);
#pragma unroll
    for (int j = 0; j < count; ++j) {
      const float score = values.v[j], target = wanted.v[j];
      if (target_counts(target, ignores, ignored)) {
        sum += (score < 0 ? 0.0f : score) - score * target + log1pf(expf(-fabsf(score)));
        counted += 1;
      }
      values.v[j] = 0.5f * tanhf(0.5f * score) + 0.5f;  // cannot overflow
    }
    store_packed(sigmoid + i, values);
  });
  store_share(sum, counted, sums, counts);
}

template <int COUNT>
__global__ void __launch_bounds__(THREADS)
sigmoid_loss_backward(int64 n, const float* __restrict__ sigmoid, const float* __restrict__ targets, bool ignores,
                      int ignored, const float* __restrict__ loss_weight, const float* __restrict__ normalizer,
                      float* __restrict__ dx) {
  const float scale = *loss_weight / *normalizer;
  for_each_pack<COUNT>(n, [&](int64 i, auto pack) {
    constexpr int count = decltype(pack)::count;
    auto values = load_packed<count>(sigmoid + i);
    const auto wanted = load_packed<count>(targets + i);
#pragma unroll
    for (int j = 0; j < count; ++j) {
      const float target = wanted.v[j];
      values.v[j] = target_counts(target, ignores, ignored) ? scale * (values.v[j] - target) : 0.0f;
    }
    store_packed(dx + i, values);
  });
}
