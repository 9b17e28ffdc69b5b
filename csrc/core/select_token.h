#pragma once

// Choice of the next token of a row: by score among the candidates, ordinary, or padding.

#include "canonical_math.h"
#include "philox.h"
#include "propose_candidates.h"

namespace s2t {

struct SelectTokenParams {
  const int64_t* ids;            // [batch, k]; -1: empty slot
  const float* scores;           // [batch, k]
  const bool* triggered;         // [batch]
  const int64_t* default_token;  // [batch]
  const bool* finished;          // [batch]
  const int64_t* seed;           // [batch], read only if score_temperature > 0
  const int64_t* position;       // [batch], likewise
  int64_t batch;
  int32_t k;  // 1 .. kMaxCandidates
  int64_t pad_id;
  float score_temperature;  // 0: the best score
  float override_margin;    // above 0: how much better than the first candidate another must be
  int64_t* token;           // [batch]
  int64_t* slot;            // [batch]
  bool* refused;            // [batch]: the margin kept the first candidate; null: not asked for
};

// A slot that may be chosen. NaN > -inf is false.
S2T_HOST_DEVICE bool is_usable(int64_t id, float score) {
  return id >= 0 && score > negative_infinity();
}

// The usable slot with the best score, the first of equals; -1 if there is none.
S2T_HOST_DEVICE int best_slot(const int64_t* ids, const float* scores, int k) {
  int best = -1;
  for (int slot = 0; slot < k; ++slot) {
    if (!is_usable(ids[slot], scores[slot])) continue;
    if (best < 0 || scores[slot] > scores[best]) best = slot;
  }
  return best;
}

// Weight of a usable slot in softmax(scores / temperature), 1 for the best. Equality is asked
// first: at +inf the difference of equals is NaN.
S2T_HOST_DEVICE float slot_weight(float score, float best_score, float temperature) {
  return score == best_score ? 1.0f : exp_canonical((score - best_score) / temperature);
}

// The slot drawn from softmax(scores / temperature) by inverse CDF in slot order: the first whose
// cumulated weight exceeds uniform * total. `best` is best_slot(), not -1.
S2T_HOST_DEVICE int draw_slot(
    const int64_t* ids, const float* scores, int k, int best, float temperature, float uniform) {
  double total = 0.0;
  for (int slot = 0; slot < k; ++slot) {
    if (!is_usable(ids[slot], scores[slot])) continue;
    total = total + static_cast<double>(slot_weight(scores[slot], scores[best], temperature));
  }
  const double target = static_cast<double>(uniform) * total;
  double cumulated = 0.0;
  for (int slot = 0; slot < k; ++slot) {
    if (!is_usable(ids[slot], scores[slot])) continue;
    cumulated =
        cumulated + static_cast<double>(slot_weight(scores[slot], scores[best], temperature));
    if (cumulated > target) return slot;
  }
  return best;  // not reached: uniform < 1, and the last cumulated weight is the total
}

// Whether the margin keeps the first candidate in place of the chosen one. A first candidate that
// cannot be chosen is not kept.
S2T_HOST_DEVICE bool is_refused(const int64_t* ids,
                                const float* scores,
                                int chosen,
                                float override_margin) {
  return override_margin > 0.0f && chosen != 0 && is_usable(ids[0], scores[0]) &&
         !(scores[chosen] - scores[0] > override_margin);
}

// Token and slot of one row.
S2T_HOST_DEVICE void select_row(const SelectTokenParams& params, int64_t row) {
  int64_t token = params.default_token[row];
  int slot = 0;
  bool refused = false;
  if (params.finished[row]) {
    token = params.pad_id;
  } else if (params.triggered[row]) {
    const int64_t* ids = params.ids + row * params.k;
    const float* scores = params.scores + row * params.k;
    int chosen = best_slot(ids, scores, params.k);
    if (chosen >= 0) {
      if (params.score_temperature > 0.0f) {
        const float uniform =
            uniform24(philox(params.seed[row], params.position[row], RandomPurpose::kSelectToken));
        chosen = draw_slot(ids, scores, params.k, chosen, params.score_temperature, uniform);
      }
      refused = is_refused(ids, scores, chosen, params.override_margin);
      slot = refused ? 0 : chosen;
      token = ids[slot];
    }
  }
  params.token[row] = token;
  params.slot[row] = slot;
  if (params.refused != nullptr) params.refused[row] = refused;
}

}  // namespace s2t
