// Draws the ordinary next token of every row (core/sample_token.h states the rules).
//
// One scan of the logits (row_scan.h) gives the 64 best (or the top_k best, if more), log-sum-exp
// and the chunk sums at the row's temperature. That decides nearly every row: the kept set lies
// within the 64 best, or there is no truncation and the draw goes through the chunk sums. A nucleus
// wider than the 64 best is found exactly by nucleus_cutoff.cpp; then the kept part of each chunk
// is summed again.

#include "cpu/sample_token.h"

#include <algorithm>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/nucleus_cutoff.h"
#include "cpu/row_scan.h"
#include "cpu/sample_token_kernels.h"

namespace s2t::cpu {
namespace {

constexpr KernelTable<void(const Key*, int64_t, float, float*, float*)> kKeyWeights =
    S2T_KERNEL_TABLE(key_weights);
constexpr KernelTable<void(const TemperedRow&, int64_t, Key, float*)> kKeptWeights =
    S2T_KERNEL_TABLE(kept_weights);

SampleRule rule_of_row(const SampleTokenParams& params, int64_t row) {
  return sample_rule(params.temperature[row], params.top_k[row], params.top_p[row],
                     params.min_p[row], params.vocab);
}

ScanRequest request_of_row(const SampleTokenParams& params, int64_t row) {
  const SampleRule rule = rule_of_row(params, row);
  if (rule.is_greedy) return ScanRequest{1, false, 1.0f};
  const bool is_listed = rule.top_k <= kMaxCandidates;
  const bool has_long_list = !is_listed && rule.has_top_k;
  return ScanRequest{has_long_list ? rule.top_k : kMaxCandidates, false,
                     is_listed ? 1.0f : rule.inverse_temperature};
}

// One row that is not greedy and whose best logit is finite.
class Drawing {
 public:
  Drawing(const SampleTokenParams& params,
          const BlockedIds& blocked,
          int64_t row,
          const ScannedRow& scanned)
      : scanned_(scanned), rule_(rule_of_row(params, row)) {
    tempered_ = TemperedRow{row_pointer(logits_view(params), row),
                            params.logits_type,
                            params.vocab,
                            &blocked,
                            scanned.chunks,
                            key_logit(scanned.best[0]),
                            rule_.inverse_temperature};
    uniform_ =
        uniform53(philox(params.seed[row], params.position[row], RandomPurpose::kSampleToken));
  }

  static LogitsView logits_view(const SampleTokenParams& params) {
    return LogitsView{params.logits, params.logits_type, params.batch, params.vocab,
                      params.row_stride};
  }

  Key draw() {
    int count = 0;
    while (count < kMaxCandidates && scanned_.best[count] != kNoKey) ++count;
    float scaled[kMaxCandidates], weights[kMaxCandidates];
    kKeyWeights.active()(scanned_.best, count, rule_.inverse_temperature, scaled, weights);
    const ListedTopK top_k = listed_top_k(rule_, scanned_.best, count);
    const bool needs_mass = rule_.has_top_p && !top_k.is_complete;
    const double mass = needs_mass ? mass_of_top_k() : 0.0;
    const int kept = kept_in_list(scaled, weights, top_k, rule_, mass);
    return kept == kNotListed ? draw_unlisted() : draw_listed(weights, kept);
  }

 private:
  Key top_k_cutoff() const {
    if (!rule_.has_top_k) return kKeepAll;
    return std::max(first_of_equals(scanned_.best[rule_.top_k - 1]), kKeepAll);
  }

  // Masses of the chunks' kept parts. The scan has them already where everything is kept.
  std::vector<double> masses(Key cutoff) const {
    return cutoff == kKeepAll ? unrestricted_masses(tempered_, scanned_.tempered_sums)
                              : kept_masses(tempered_, cutoff);
  }

  double mass_of_top_k() {
    const std::vector<double> mass = masses(top_k_cutoff());
    return top_k_mass_ = running_total(mass.data(), static_cast<int64_t>(mass.size()));
  }

  Key draw_listed(const float* weights, int kept) const {
    int order[kMaxCandidates];  // of ascending ids
    for (int i = 0; i < kept; ++i) order[i] = i;
    const Key* keys = scanned_.best;
    std::sort(order, order + kept,
              [keys](int a, int b) { return key_id(keys[a]) < key_id(keys[b]); });
    float by_id[kMaxCandidates];
    for (int i = 0; i < kept; ++i) by_id[i] = weights[order[i]];
    const Pick chosen = pick(by_id, kept, uniform_ * running_total(by_id, kept));
    return keys[order[chosen.index]];
  }

  Key draw_unlisted() const {
    Key cutoff = top_k_cutoff();
    if (rule_.has_min_p) cutoff = std::max(cutoff, min_p_cutoff(tempered_.best, rule_));
    if (rule_.has_top_p) {
      const double target = rule_.top_p * top_k_mass_;
      cutoff = std::max(cutoff, nucleus_cutoff(tempered_, target));
    }
    const std::vector<double> mass = masses(cutoff);
    const int64_t count = static_cast<int64_t>(mass.size());
    const Pick chunk = pick(mass.data(), count, uniform_ * running_total(mass.data(), count));
    const float scale = chunk_scale(scanned_.chunks[chunk.index].maximum, tempered_.best,
                                    rule_.inverse_temperature);
    float weights[kChunkSize];
    kKeptWeights.active()(tempered_, chunk.index, cutoff, weights);
    const int element = pick_in_chunk(weights, chunk.rest / static_cast<double>(scale));
    const int64_t id = chunk.index * kChunkSize + element;
    return make_key(logit_at(tempered_.row, tempered_.type, id), static_cast<uint32_t>(id));
  }

  const ScannedRow& scanned_;
  const SampleRule rule_;
  TemperedRow tempered_;
  double uniform_;
  double top_k_mass_ = 0.0;  // once needed
};

void write_row(const SampleTokenParams& params,
               const BlockedIds& blocked,
               int64_t row,
               const ScannedRow& scanned) {
  const Key best = scanned.best[0];
  const bool is_drawn = !rule_of_row(params, row).is_greedy && is_finite(key_logit(best));
  const Key chosen = is_drawn ? Drawing(params, blocked, row, scanned).draw() : best;
  params.token[row] = key_id(chosen);
  params.logprob[row] = row_logprob(scanned.stats, chosen, best);
}

}  // namespace

void sample_token(const SampleTokenParams& params, const Parallel& parallel) {
  const BlockedIds blocked = sorted_blocked_ids(params.blocked_ids, params.num_blocked);
  scan_rows(
      parallel, Drawing::logits_view(params), blocked,
      [&](int64_t row) { return request_of_row(params, row); },
      [&](int64_t row, const ScannedRow& scanned) { write_row(params, blocked, row, scanned); });
}

}  // namespace s2t::cpu
