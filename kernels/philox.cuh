// Philox, counter-based random numbers: a draw is a pure function of key and counter, so any thread can make any one.
// (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011)
#pragma once

template <class Word>
struct PhiloxConstants;
template <>
struct PhiloxConstants<unsigned> {
  static constexpr unsigned multiply_0 = 0xD2511F53u, multiply_1 = 0xCD9E8D57u;
  static constexpr unsigned weyl_0 = 0x9E3779B9u, weyl_1 = 0xBB67AE85u;
};
template <>
struct PhiloxConstants<uint64> {
  static constexpr uint64 multiply_0 = 0xD2E7470EE14C6C93u, multiply_1 = 0xCA5A826395121157u;
  static constexpr uint64 weyl_0 = 0x9E3779B97F4A7C15u, weyl_1 = 0xBB67AE8584CAA73Bu;
};
DEVICE unsigned multiply_high(unsigned a, unsigned b) { return __umulhi(a, b); }
DEVICE uint64 multiply_high(uint64 a, uint64 b) { return __umul64hi(a, b); }

template <class Word>
struct Philox {
  Word v[4];
};

// Ten rounds. Word = unsigned is Philox4x32-10; Word = uint64 is Philox4x64-10, the generator of layer/random.py
// (NumPy's, which counts one up before it draws).
template <class Word>
DEVICE Philox<Word> philox(Philox<Word> counter, Word key_0, Word key_1) {
  using C = PhiloxConstants<Word>;
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const Word high_0 = multiply_high(C::multiply_0, counter.v[0]), low_0 = C::multiply_0 * counter.v[0];
    const Word high_1 = multiply_high(C::multiply_1, counter.v[2]), low_1 = C::multiply_1 * counter.v[2];
    counter = {{high_1 ^ counter.v[1] ^ key_0, low_1, high_0 ^ counter.v[3] ^ key_1, low_0}};
    key_0 += C::weyl_0;
    key_1 += C::weyl_1;
  }
  return counter;
}

// A number in [0, 1) from the upper 24 bits.
DEVICE float to_uniform(unsigned bits) { return static_cast<float>(bits >> 8) * (1.0f / 16777216.0f); }
