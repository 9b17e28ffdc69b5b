#pragma once

// Keeps the k best tokens of every row, with log-sum-exp and the entropies that trigger a choice.

#include "canonical_math.h"
#include "ordering.h"
#include "scalar_type.h"
#include "status.h"

namespace s2t {

constexpr int kMaxCandidates = 64;
constexpr int kMaxBlockedIds = 64;

struct ProposeCandidatesParams {
  const void* logits;  // [batch, vocab] of logits_type, rows row_stride elements apart
  ScalarType logits_type;
  int64_t batch;
  int64_t vocab;               // 1 <= vocab < 2^31
  int64_t row_stride;          // in elements, may be anything; inside a row the stride is 1
  int32_t k;                   // 1..64
  int32_t support;             // k..64, or 0: support_entropy is full_entropy
  const int64_t* blocked_ids;  // [num_blocked] in any order, repeats allowed
  int32_t num_blocked;         // 0..64

  int64_t* ids;             // [batch, k]
  float* candidate_logits;  // [batch, k]
  float* logsumexp;         // [batch]
  float* support_entropy;   // [batch]
  float* full_entropy;      // [batch]
  int32_t* status;          // [batch]
};

// How many of the best keys a row needs: for the candidates and for the support.
S2T_HOST_DEVICE int selection_size(int k, int support) { return support > k ? support : k; }

// Entropy from the sums of e^(x - best) and of e^(x - best) (x - best).
S2T_HOST_DEVICE float entropy_of_sums(float sum, float weighted_sum) {
  const double s = static_cast<double>(sum);
  return static_cast<float>(log_canonical(s) - static_cast<double>(weighted_sum) / s);
}

// Entropy of softmax over the `support` best, sorted keys (kNoKey where there are fewer). The terms
// are padded to 64 with zeros and added as a tree. 0 if the best is infinite or missing.
S2T_HOST_DEVICE float support_entropy(const Key* sorted, int support) {
  const float best = key_logit(sorted[0]);
  if (!is_finite(best)) return 0.0f;
  float weights[kMaxCandidates], weighted[kMaxCandidates];
  for (int i = 0; i < kMaxCandidates; ++i) {
    const float d = key_logit(i < support ? sorted[i] : kNoKey) - best;
    weights[i] = exp_canonical(d);
    weighted[i] = add_weighted(0.0f, weights[i], d);
  }
  return entropy_of_sums(tree_sum(weights, kMaxCandidates), tree_sum(weighted, kMaxCandidates));
}

// `sorted` holds selection_size(k, support) keys; has_nan tells of an unblocked NaN in the row.
S2T_HOST_DEVICE int32_t propose_status(const Key* sorted, int k, bool has_nan) {
  int32_t status = has_nan ? kStatusNanSeen : 0;
  if (sorted[0] == kNoKey) status |= kStatusNoValidToken;
  if (key_logit(sorted[0]) == positive_infinity()) status |= kStatusInfSeen;
  if (sorted[k - 1] == kNoKey) status |= kStatusFewerThanK;
  return status;
}

}  // namespace s2t
