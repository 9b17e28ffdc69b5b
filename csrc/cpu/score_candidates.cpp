#include "cpu/score_candidates.h"

#include "cpu/score_group.h"

namespace s2t::cpu {

void score_candidates(const ScoreCandidatesParams& params, const Parallel& parallel) {
  const PaddedHead head = pad(params.head);
  ScoreGroup* score = score_group();
  const char* base = static_cast<const char*>(params.hidden);
  const int64_t stride = params.hidden_stride * bytes_of(params.hidden_type);
  const auto score_range = [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; n += kGroupSize) {
      const int count = static_cast<int>(end - n < kGroupSize ? end - n : kGroupSize);
      const void* hidden[kGroupSize];
      for (int i = 0; i < count; ++i) hidden[i] = base + (n + i) * stride;
      score(head, params.hidden_type, hidden, count, params.scores + n);
    }
  };
  for_candidate_ranges(parallel, params.head, params.num_candidates, score_range);
}

}  // namespace s2t::cpu
