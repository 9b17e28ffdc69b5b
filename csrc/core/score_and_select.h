#pragma once

// The decision of one step in one call: score the candidates of the rows that choose, add the prior
// term, select.

#include "score_candidates.h"
#include "select_token.h"

namespace s2t {

struct ScoreAndSelectParams {
  ScoreHead head;
  const void* hidden;  // [batch, k, hidden_size], last stride 1
  ScalarType hidden_type;
  int64_t hidden_row_stride;        // elements between rows of the batch
  int64_t hidden_slot_stride;       // elements between candidates of a row
  const float* candidate_logprobs;  // [batch, k], read only if prior_weight is not 0
  float prior_weight;
  float* scores;             // [batch, k]; select.scores is the same memory
  SelectTokenParams select;  // rows, ids and results
};

// Slots that take part in no choice are not scored, and their hidden states (which may be anything)
// not read.
S2T_HOST_DEVICE bool is_scored(const SelectTokenParams& select, int64_t row, int slot) {
  return select.triggered[row] && !select.finished[row] && select.ids[row * select.k + slot] >= 0;
}

// What candidates are compared by; -inf for one that can't be chosen.
S2T_HOST_DEVICE float total_score(float score, float prior_weight, const float* logprob) {
  const float total = prior_weight != 0.0f ? fma_canonical(prior_weight, *logprob, score) : score;
  return total == total ? total : negative_infinity();
}

}  // namespace s2t
