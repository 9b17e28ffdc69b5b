#pragma once

// The one total order on (logit, token id): larger logit first, then smaller id.
//
// Each element gets a 64-bit key, larger is better:
//
//   high 32 bits  the logit's bits, made monotone (negative values flipped, sign bit set on others)
//   low 32 bits   0xFFFFFFFF - id
//
// No two elements of a row have equal keys, so every selection has exactly one answer, whatever
// the order in which threads, blocks or vectors meet the elements.

#include "host_device.h"

namespace s2t {

using Key = uint64_t;

// Smaller than the key of every candidate. It stands for "no element".
constexpr Key kNoKey = 0;

// Monotone: a < b exactly if ordered_bits(a) < ordered_bits(b). -0 maps to +0. Not for NaN.
S2T_HOST_DEVICE uint32_t ordered_bits(float value) {
  const uint32_t bits = float_bits(value + 0.0f);  // -0 + +0 is +0
  return (bits & 0x80000000u) ? ~bits : (bits | 0x80000000u);
}

S2T_HOST_DEVICE float value_of_ordered_bits(uint32_t ordered) {
  return bits_float((ordered & 0x80000000u) ? (ordered ^ 0x80000000u) : ~ordered);
}

// True for what may become a candidate: not NaN, not -inf (a masked logit).
S2T_HOST_DEVICE bool is_candidate(float logit) { return logit > negative_infinity(); }

// kNoKey for a logit that cannot be a candidate.
S2T_HOST_DEVICE Key make_key(float logit, uint32_t id) {
  if (!is_candidate(logit)) return kNoKey;
  return (static_cast<Key>(ordered_bits(logit)) << 32) | (0xFFFFFFFFu - id);
}

// The token id, -1 for kNoKey.
S2T_HOST_DEVICE int64_t key_id(Key key) {
  if (key == kNoKey) return -1;
  return static_cast<int64_t>(0xFFFFFFFFu - static_cast<uint32_t>(key));
}

// The logit (-0 became +0), -inf for kNoKey.
S2T_HOST_DEVICE float key_logit(Key key) {
  if (key == kNoKey) return negative_infinity();
  return value_of_ordered_bits(static_cast<uint32_t>(key >> 32));
}

}  // namespace s2t
