#pragma once

// KL(student || teacher) on the student's support, both renormalised there; the teacher's
// log-probabilities of the candidates and its best token.

#include "canonical_math.h"
#include "ordering.h"
#include "propose_candidates.h"

namespace s2t {

struct SupportKLParams {
  const int64_t* student_ids;    // [batch, support]; negative: empty place
  const float* student_logits;   // [batch, support]
  const void* logits;            // the teacher's [batch, vocab], rows row_stride elements apart
  const int64_t* candidate_ids;  // [batch, k]; negative: no candidate
  ScalarType logits_type;
  int64_t batch;
  int64_t vocab;       // 1 <= vocab < 2^31
  int64_t row_stride;  // in elements
  int32_t support;     // 1..64
  int32_t k;           // 1..64

  float* kl;                  // [batch]
  float* candidate_logprobs;  // [batch, k]
  int64_t* teacher_argmax;    // [batch]
};

// The logit of a place: NaN counts as -inf.
S2T_HOST_DEVICE float without_nan(float logit) {
  return logit == logit ? logit : negative_infinity();
}

// One of the two distributions over up to 64 places. Where its best is +inf, the first place that
// has it has all the mass.
struct SupportSide {
  float best;  // largest logit
  int first;   // first place that has it; -1 if every logit is -inf
};

S2T_HOST_DEVICE SupportSide support_side(const float* logits, int count) {
  SupportSide side = {negative_infinity(), -1};
  for (int i = 0; i < count; ++i) {
    if (logits[i] > side.best) {
      side.best = logits[i];
      side.first = i;
    }
  }
  return side;
}

// Log-probability of place i up to the side's normaliser: 0 at the best, -inf for no mass.
S2T_HOST_DEVICE float support_difference(const SupportSide& side, float logit, int i) {
  if (i == side.first) return 0.0f;
  if (side.first < 0 || side.best == positive_infinity()) return negative_infinity();
  return logit - side.best;
}

// What each of 64 places contributes: differences by support_difference (-inf beyond `count`) and
// their exponentials. Added in double as trees.
S2T_HOST_DEVICE float support_kl_of_terms(const float* p_difference,
                                          const float* q_difference,
                                          const float* p_weight,
                                          const float* q_weight) {
  double p_sum[kMaxCandidates], q_sum[kMaxCandidates], cross[kMaxCandidates];
  for (int i = 0; i < kMaxCandidates; ++i) {
    const bool has_mass = p_weight[i] > 0.0f;
    if (has_mass && !(q_difference[i] > negative_infinity())) return positive_infinity();
    p_sum[i] = static_cast<double>(p_weight[i]);
    q_sum[i] = static_cast<double>(q_weight[i]);
    const double log_ratio =
        static_cast<double>(p_difference[i]) - static_cast<double>(q_difference[i]);
    cross[i] = has_mass ? p_sum[i] * log_ratio : 0.0;
  }
  const double s = tree_sum(p_sum, kMaxCandidates);
  const double kl = tree_sum(cross, kMaxCandidates) / s - log_canonical(s) +
                    log_canonical(tree_sum(q_sum, kMaxCandidates));
  return static_cast<float>(kl > 0.0 ? kl : 0.0);  // rounding can make equal sides differ
}

}  // namespace s2t
