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
  const void* teacher_logits;    // [batch, vocab] of logits_type, rows row_stride elements apart
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

// NaN counts as -inf; -0 stays.
S2T_HOST_DEVICE float without_nan(float logit) {
  return logit == logit ? logit : negative_infinity();
}

// Renormalises up to 64 logits: where best is +inf, its first place has all the mass.
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

// student, teacher: the two logits of each of `count` (<= 64) places, -inf for an empty place or
// NaN. Terms are padded to 64 with zeros and added in double as trees.
S2T_HOST_DEVICE float support_kl_row(const float* student, const float* teacher, int count) {
  const SupportSide p = support_side(student, count), q = support_side(teacher, count);
  if (p.first < 0) return 0.0f;
  double p_sum[kMaxCandidates], q_sum[kMaxCandidates], cross[kMaxCandidates];
  for (int i = 0; i < kMaxCandidates; ++i) {
    const float p_d = i < count ? support_difference(p, student[i], i) : negative_infinity();
    const float q_d = i < count ? support_difference(q, teacher[i], i) : negative_infinity();
    const float weight = exp_canonical(p_d);
    if (weight > 0.0f && !(q_d > negative_infinity())) return positive_infinity();
    p_sum[i] = static_cast<double>(weight);
    q_sum[i] = static_cast<double>(exp_canonical(q_d));
    cross[i] = 0.0;
    if (weight > 0.0f) {
      cross[i] =
          static_cast<double>(weight) * (static_cast<double>(p_d) - static_cast<double>(q_d));
    }
  }
  const double s = tree_sum(p_sum, kMaxCandidates);
  const double kl = tree_sum(cross, kMaxCandidates) / s - log_canonical(s) +
                    log_canonical(tree_sum(q_sum, kMaxCandidates));
  return static_cast<float>(kl > 0.0 ? kl : 0.0);  // rounding can make equal sides differ
}

}  // namespace s2t
