// Images of bytes to the floats that a net trains on: crop, mirror, subtract a mean, scale.
//
// Layout: images (N, C, H, W) of bytes; y (N, C, P, Q) of floats; `places`: for each image the top and the left edge of
// its crop, and whether it is mirrored (1) or not (0). `packed`: Q and y's address allow packs of COUNT.
// Mapping: COUNT neighbours of a row of y for each thread; one image's numbers come from the cache.
// Bound: memory; 1 byte read and 4 written an element, and 4 of the mean image from the cache.
#include "division.cuh"
#include "elementwise.cuh"

// y = (pixel - mean) * scale. The mean is the number of the channel, or the mean image (C, H, W) at the pixel's place in
// the whole image; either or both may be null. Mirroring comes last.
template <int COUNT>
__global__ void __launch_bounds__(256)
augment(unsigned n, bool packed, unsigned channels, uint64 channels_r, int h, int w, unsigned p, uint64 p_r, unsigned q,
        uint64 q_r, const unsigned char* __restrict__ images, const int* __restrict__ places,
        const float* __restrict__ mean_values, const float* __restrict__ mean_image, float scale, float* __restrict__ y) {
  for_each_pack<COUNT>(packed, n, [&](int64 i, auto pack) {
    constexpr int count = decltype(pack)::count;
    unsigned image = static_cast<unsigned>(i);
    const int column = Divisor{q, q_r}.split(image), row = Divisor{p, p_r}.split(image);
    const int channel = Divisor{channels, channels_r}.split(image);
    const int top = places[image * 3], left = places[image * 3 + 1], mirrored = places[image * 3 + 2];
    // The pixel of the first column of the pack, and the step to that of the next one.
    const int first = left + (mirrored ? static_cast<int>(q) - 1 - column : column), step = mirrored ? -1 : 1;
    const int64 line = int64(channel) * h + top + row;
    const unsigned char* const pixels = images + (int64(image) * channels * h + line) * w + first;
    const float value = mean_values ? mean_values[channel] : 0.0f;
    Packed<float, count> result;
#pragma unroll
    for (int j = 0; j < count; ++j) {
      float pixel = pixels[j * step];
      if (mean_image) pixel -= mean_image[line * w + first + j * step];
      result.v[j] = (pixel - value) * scale;
    }
    store_packed(y + i, result);
  });
}
