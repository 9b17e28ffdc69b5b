#pragma once

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): random
// numbers as a pure function of (seed, position, purpose). A request keeps its stream wherever its
// row sits in a batch, and CPU and CUDA draw the same numbers.

#include "host_device.h"

namespace s2t {

// Separates the draws that one position of one request may need. Values are part of the contract:
// changing one changes every sampled text.
enum class RandomPurpose : uint32_t {
  kSampleToken = 0,  // sample_token
  kSelectToken = 1,  // select_token, score_and_select
  // from 16 on: decisions of the caller, drawn by random_uniform
};

struct PhiloxBlock {
  uint32_t words[4];
};

S2T_HOST_DEVICE uint32_t multiply_high(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>((static_cast<uint64_t>(a) * b) >> 32);
}

// One block of 128 random bits. Key = seed; counter = (position low, position high, purpose, 0).
S2T_HOST_DEVICE PhiloxBlock philox(int64_t seed, int64_t position, RandomPurpose purpose) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
  constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  constexpr int kRounds = 10;
  uint32_t key0 = static_cast<uint32_t>(static_cast<uint64_t>(seed));
  uint32_t key1 = static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32);
  uint32_t c0 = static_cast<uint32_t>(static_cast<uint64_t>(position));
  uint32_t c1 = static_cast<uint32_t>(static_cast<uint64_t>(position) >> 32);
  uint32_t c2 = static_cast<uint32_t>(purpose);
  uint32_t c3 = 0;
  for (int round = 0; round < kRounds; ++round) {
    const uint32_t high0 = multiply_high(kMultiplier0, c0), low0 = kMultiplier0 * c0;
    const uint32_t high1 = multiply_high(kMultiplier1, c2), low1 = kMultiplier1 * c2;
    c0 = high1 ^ c1 ^ key0;
    c1 = low1;
    c2 = high0 ^ c3 ^ key1;
    c3 = low0;
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return PhiloxBlock{{c0, c1, c2, c3}};
}

// Uniform in [0, 1) with 24 bits, from the first word. Enough for a choice among at most 64.
S2T_HOST_DEVICE float uniform24(const PhiloxBlock& block) {
  return static_cast<float>(block.words[0] >> 8) * 5.9604644775390625e-08f;  // 2^-24
}

// Uniform in [0, 1) with 53 bits, from the first two words (the first is the high part, so it
// agrees with uniform24 to 24 bits). Choices over a whole vocabulary need it: of 2^24 equal steps
// a flat row of 150,000 tokens would get 111 or 112 each, a bias of up to 1 %.
S2T_HOST_DEVICE double uniform53(const PhiloxBlock& block) {
  const uint64_t bits = (static_cast<uint64_t>(block.words[0]) << 21) | (block.words[1] >> 11);
  return static_cast<double>(bits) * 1.1102230246251565e-16;  // 2^-53
}

}  // namespace s2t
