#pragma once

// Scores of candidates: the expected bin value their reserved-row logits speak for.
//
//   z_r   = h . rows_r + bias_r;  z_r *= logit_scale;  z_r = softcap tanh(z_r / softcap)
//   score = sum_r v_r softmax(z / bin_temperature)_r
//
// Canonical order: dot products over 32 partials (csrc/README.md); the two softmax sums as trees
// over the bins, padded with zeros to a power of two. Divisions by the temperature and the softcap
// are multiplications by their inverses. A score is NaN (always the same one) if some z_r is NaN or
// the largest is infinite.

#include "canonical_math.h"
#include "float16.h"
#include "scalar_type.h"

namespace s2t {

constexpr int kMaxBins = 64;
constexpr int kDotPartials = 32;  // element i of a dot product adds into partial i mod 32

// What turns a hidden state into a score.
struct ScoreHead {
  const void* rows;  // [num_bins, hidden_size], last stride 1
  ScalarType rows_type;
  int64_t row_stride;  // in elements
  int64_t hidden_size;
  int32_t num_bins;  // 1..64
  const void* bias;  // [num_bins], or null
  ScalarType bias_type;
  const float* bin_values;  // [num_bins]
  float inverse_bin_temperature;
  float logit_scale;
  float softcap;  // 0: none
  float inverse_softcap;
};

struct ScoreCandidatesParams {
  ScoreHead head;
  const void* hidden;  // [num_candidates, hidden_size], last stride 1
  ScalarType hidden_type;
  int64_t hidden_stride;  // in elements
  int64_t num_candidates;
  float* scores;  // [num_candidates]
};

S2T_HOST_DEVICE float quiet_nan() { return bits_float(0x7FC00000u); }

// One dot product from its partials, which it overwrites.
S2T_HOST_DEVICE float dot_of_partials(float* partials) { return tree_sum(partials, kDotPartials); }

// Element i of an array of any of the types.
S2T_HOST_DEVICE float element(const void* values, ScalarType type, int i) {
  switch (type) {
    case ScalarType::kBFloat16:
      return to_float(static_cast<const BFloat16*>(values)[i]);
    case ScalarType::kFloat16:
      return to_float(static_cast<const Float16*>(values)[i]);
    default:
      return static_cast<const float*>(values)[i];
  }
}

// From the dot product h . rows_bin to what goes into the softmax.
S2T_HOST_DEVICE float bin_logit(const ScoreHead& head, int bin, float dot) {
  float z = head.bias ? dot + element(head.bias, head.bias_type, bin) : dot;
  z = z * head.logit_scale;
  if (head.softcap > 0.0f) z = head.softcap * tanh_canonical(z * head.inverse_softcap);
  return z * head.inverse_bin_temperature;
}

// The last step. + 0: how many zeros a tree started with must not show in the sign of a zero.
S2T_HOST_DEVICE float score_of_sums(float weighted_sum, float sum) {
  const float score = weighted_sum / sum + 0.0f;
  return score == score ? score : quiet_nan();  // bin values need not be finite
}

// The score from the bin logits [num_bins], in scalar form. Overwrites them; there is room for
// kMaxBins.
S2T_HOST_DEVICE float expected_bin_value(const ScoreHead& head, float* logits) {
  float maximum = negative_infinity();
  bool has_nan = false;
  for (int r = 0; r < head.num_bins; ++r) {
    has_nan = has_nan || logits[r] != logits[r];
    maximum = logits[r] > maximum ? logits[r] : maximum;
  }
  if (has_nan || !is_finite(maximum)) return quiet_nan();
  float weighted[kMaxBins];
  for (int r = 0; r < kMaxBins; ++r) {
    const bool is_bin = r < head.num_bins;
    logits[r] = is_bin ? exp_canonical(logits[r] - maximum) : 0.0f;
    weighted[r] = is_bin ? logits[r] * head.bin_values[r] : 0.0f;
  }
  return score_of_sums(tree_sum(weighted, kMaxBins), tree_sum(logits, kMaxBins));
}

}  // namespace s2t
