#pragma once

// Draws the ordinary next token of every row: temperature, then top-k, top-p, min-p (the order of
// Hugging Face), then one uniform number into the cumulated weights in the order of the ids.
//
// Every truncation keeps a beginning of the total order, so "kept" always means key >= cutoff. With
// scaled(x) = (x - best) * (1 / temperature) and weight(x) = exp_canonical(scaled(x)):
//
//   top-k  the least key of those whose logit equals that of the k-th (so do transformers' warpers)
//   top-p  the largest cutoff with mass(cutoff) >= p * mass(what top-k keeps)
//   min-p  scaled(x) >= log(min_p), which is monotone in x even after rounding
//
// Two ways to add the same weights, chosen by the row's own data and parameters:
//
//   listed     the kept set is known to lie within the 64 best: running sums in double, over the
//              sorted list for top-p, over the kept ids in ascending order for the draw
//   unlisted   otherwise: a chunk's mass is exp_canonical((m - best) / temperature) times the
//              canonical chunk sum of the kept weights relative to m; masses are added in double in
//              ascending chunk order, and the draw goes chunk -> block of 32 -> element

#include "canonical_math.h"
#include "ordering.h"
#include "philox.h"
#include "propose_candidates.h"

namespace s2t {

struct SampleTokenParams {
  const void* logits;  // [batch, vocab] of logits_type, rows row_stride elements apart
  ScalarType logits_type;
  int64_t batch;
  int64_t vocab;               // 1 <= vocab < 2^31
  int64_t row_stride;          // in elements
  const float* temperature;    // [batch]; not above 0: take the best
  const int64_t* top_k;        // [batch]; below 1: off
  const float* top_p;          // [batch]; not below 1: off
  const float* min_p;          // [batch]; not above 0: off
  const int64_t* seed;         // [batch]
  const int64_t* position;     // [batch]
  const int64_t* blocked_ids;  // [num_blocked] in any order, repeats allowed
  int32_t num_blocked;         // 0..64

  int64_t* token;  // [batch]
  float* logprob;  // [batch]
};

// -- what a row asks for --------------------------------------------------------------------------

struct SampleRule {
  bool is_greedy;
  bool has_top_k, has_top_p, has_min_p;
  float inverse_temperature;
  int64_t top_k;  // vocab or more means off
  double top_p;
  float min_p_log;  // least scaled logit that min-p keeps
};

S2T_HOST_DEVICE SampleRule
sample_rule(float temperature, int64_t top_k, float top_p, float min_p, int64_t vocab) {
  constexpr float kLargest = 3.402823466e38f;
  SampleRule rule;
  rule.is_greedy = !(temperature > 0.0f);
  rule.has_top_p = top_p < 1.0f;
  rule.has_min_p = min_p > 0.0f;
  const float inverse = rule.is_greedy ? 1.0f : 1.0f / temperature;
  rule.inverse_temperature = inverse < kLargest ? inverse : kLargest;  // 0 * inf is no weight
  rule.top_k = top_k < 1 ? vocab : top_k;
  rule.has_top_k = rule.top_k < vocab;
  rule.top_p = static_cast<double>(top_p);
  rule.min_p_log = negative_infinity();
  if (rule.has_min_p) {
    const double clamped =
        min_p < 2.0f ? static_cast<double>(min_p) : 2.0;  // above 1: the best only
    rule.min_p_log = static_cast<float>(log_canonical(clamped));
  }
  return rule;
}

// <= 0, or NaN for logit = best = +-inf.
S2T_HOST_DEVICE float scaled_logit(float logit, float best, float inverse_temperature) {
  return (logit - best) * inverse_temperature;
}

// The least key with the logit of `key`, or below.
S2T_HOST_DEVICE Key first_of_equals(Key key) { return key & 0xFFFFFFFF00000000u; }

// What top-k keeps of the sorted list of the 64 best keys.
struct ListedTopK {
  int kept;          // of the list
  bool is_complete;  // the list holds all that top-k keeps of the row
};

// `count` (at least 1) of the list are valid.
S2T_HOST_DEVICE ListedTopK listed_top_k(const SampleRule& rule, const Key* sorted, int count) {
  const bool holds_the_row = count < kMaxCandidates || rule.top_k <= kMaxCandidates;
  if (!rule.has_top_k || rule.top_k > count) return ListedTopK{count, holds_the_row};
  const Key cutoff = first_of_equals(sorted[rule.top_k - 1]);
  int kept = static_cast<int>(rule.top_k);
  while (kept < count && sorted[kept] >= cutoff) ++kept;
  return ListedTopK{kept, kept < kMaxCandidates};
}

constexpr int kNotListed = -1;

// How many of the sorted list may be drawn, or kNotListed if the
// list cannot tell. scaled[i], weights[i] belong to its i-th entry. mass: of what top-k keeps; read
// only for top-p where the list is not complete.
S2T_HOST_DEVICE int kept_in_list(const float* scaled,
                                 const float* weights,
                                 ListedTopK top_k,
                                 const SampleRule& rule,
                                 double mass) {
  bool is_known = top_k.is_complete;
  const int limit = top_k.kept;
  int kept = limit;
  if (rule.has_min_p) {
    int passing = 0;
    while (passing < limit && scaled[passing] >= rule.min_p_log) ++passing;
    if (passing < limit) {
      is_known = true;
      kept = passing;
    }
  }
  if (rule.has_top_p) {
    double total = mass;
    if (top_k.is_complete) {
      total = 0.0;
      for (int i = 0; i < limit; ++i) total = total + static_cast<double>(weights[i]);
    }
    const double target = rule.top_p * total;
    double running = 0.0;
    for (int i = 0; i < limit; ++i) {
      running = running + static_cast<double>(weights[i]);
      if (running >= target) {
        is_known = true;
        kept = i + 1 < kept ? i + 1 : kept;
        break;
      }
    }
  }
  if (!is_known) return kNotListed;
  return kept > 1 ? kept : 1;  // the best is always kept
}

// -- cutoffs --------------------------------------------------------------------------------------

// Keeps every candidate.
constexpr Key kKeepAll = kNoKey + 1;

// The least key that min-p keeps, by bisection over the 2^32 values; rule.min_p_log <= 0.
S2T_HOST_DEVICE Key min_p_cutoff(float best, const SampleRule& rule) {
  uint32_t failing = ordered_bits(negative_infinity()), passing = ordered_bits(best);
  while (passing - failing > 1) {
    const uint32_t middle = failing + (passing - failing) / 2;
    const float scaled =
        scaled_logit(value_of_ordered_bits(middle), best, rule.inverse_temperature);
    if (scaled >= rule.min_p_log) {
      passing = middle;
    } else {
      failing = middle;
    }
  }
  return static_cast<Key>(passing) << 32;
}

// -- the draw -------------------------------------------------------------------------------------

struct Pick {
  int64_t index;  // -1 if no weight is positive
  double rest;    // how far the target reaches into that entry; +inf if beyond the end
};

// The first entry whose running sum exceeds target, else the last one of positive weight.
template <typename Real>
S2T_HOST_DEVICE Pick pick(const Real* weights, int64_t count, double target) {
  double running = 0.0;
  int64_t last_positive = -1;
  for (int64_t i = 0; i < count; ++i) {
    const double before = running;
    running = running + static_cast<double>(weights[i]);
    if (running > target) return Pick{i, target - before};
    if (weights[i] > Real(0)) last_positive = i;
  }
  return Pick{last_positive, static_cast<double>(positive_infinity())};
}

template <typename Real>
S2T_HOST_DEVICE double running_total(const Real* weights, int64_t count) {
  double total = 0.0;
  for (int64_t i = 0; i < count; ++i) total = total + static_cast<double>(weights[i]);
  return total;
}

// The mass of a chunk relative to the row's best. kept_sum is the canonical chunk sum of the kept
// weights relative to the chunk's maximum.
S2T_HOST_DEVICE float chunk_scale(float chunk_maximum, float best, float inverse_temperature) {
  return exp_canonical(scaled_logit(chunk_maximum, best, inverse_temperature));
}

S2T_HOST_DEVICE double chunk_mass(float scale, float kept_sum) {
  return static_cast<double>(scale) * static_cast<double>(kept_sum);
}

constexpr int kBlockSize = 32;  // of a chunk in the draw

// Element of a chunk at `target` (in the chunk's own scale): block of 32, then element.
// weights: kChunkSize kept weights relative to the chunk's maximum, 0 where not kept.
S2T_HOST_DEVICE int pick_in_chunk(const float* weights, double target) {
  constexpr int kBlocks = kChunkSize / kBlockSize;
  float sums[kBlocks];
  for (int b = 0; b < kBlocks; ++b) {
    float block[kBlockSize];
    for (int i = 0; i < kBlockSize; ++i) block[i] = weights[b * kBlockSize + i];
    sums[b] = tree_sum(block, kBlockSize);
  }
  const Pick block = pick(sums, kBlocks, target);
  const Pick element = pick(weights + block.index * kBlockSize, kBlockSize, block.rest);
  return static_cast<int>(block.index * kBlockSize + element.index);
}

}  // namespace s2t
