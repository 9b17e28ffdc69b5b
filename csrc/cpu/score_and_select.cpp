#include "cpu/score_and_select.h"

#include "cpu/score_group.h"
#include "cpu/select_token.h"

namespace s2t::cpu {
namespace {

// Slots gathered until a group of them can be scored.
struct Group {
  const void* hidden[kGroupSize];
  int64_t slots[kGroupSize];
  int count = 0;
};

void finish(const ScoreAndSelectParams& params,
            const PaddedHead& head,
            ScoreGroup* score,
            Group* group) {
  float scores[kGroupSize];
  score(head, params.hidden_type, group->hidden, group->count, scores);
  for (int i = 0; i < group->count; ++i) {
    const int64_t n = group->slots[i];
    params.scores[n] = total_score(scores[i], params.prior_weight, params.candidate_logprobs + n);
  }
  group->count = 0;
}

// Totals of slots begin .. end - 1 of the batch * k slots, counted row by row.
void score_slots(const ScoreAndSelectParams& params,
                 const PaddedHead& head,
                 int64_t begin,
                 int64_t end) {
  ScoreGroup* score = score_group();
  const char* base = static_cast<const char*>(params.hidden);
  const int64_t bytes = bytes_of(params.hidden_type), k = params.select.k;
  Group group;
  for (int64_t n = begin; n < end; ++n) {
    const int64_t row = n / k, slot = n % k;
    if (!is_scored(params.select, row, static_cast<int>(slot))) {
      params.scores[n] = negative_infinity();
      continue;
    }
    const int64_t offset = row * params.hidden_row_stride + slot * params.hidden_slot_stride;
    group.hidden[group.count] = base + offset * bytes;
    group.slots[group.count] = n;
    if (++group.count == kGroupSize) finish(params, head, score, &group);
  }
  finish(params, head, score, &group);
}

}  // namespace

void score_and_select(const ScoreAndSelectParams& params, const Parallel& parallel) {
  const PaddedHead head = pad(params.head);
  const auto score_range = [&](int64_t begin, int64_t end) {
    score_slots(params, head, begin, end);
  };
  const int64_t slots = params.select.batch * params.select.k;
  for_candidate_ranges(parallel, params.head, slots, score_range);
  select_token(params.select);
}

}  // namespace s2t::cpu
