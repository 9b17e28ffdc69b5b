#pragma once

// Scoring of a group of hidden states: what score_candidates and score_and_select share.

#include "core/score_candidates.h"
#include "cpu/parallel.h"

namespace s2t::cpu {

constexpr int kGroupSize = 64;  // a multiple of what the kernel takes at once

// A head with its vectors padded by zeros, so that the kernel loads whole registers.
struct PaddedHead {
  ScoreHead head;
  float bias[kMaxBins];
  float bin_values[kMaxBins];
};

PaddedHead pad(const ScoreHead& head);

using ScoreGroup = void(const PaddedHead& head,
                        ScalarType hidden_type,
                        const void* const* hidden,  // [count] pointers to [hidden_size]
                        int count,
                        float* scores);  // [count]

// The one for the instruction set in use.
ScoreGroup* score_group();

// Calls f(begin, end) for ranges of candidates that cover [0, count): one range, unless the work
// pays for threads.
template <typename Function>
void for_candidate_ranges(const Parallel& parallel,
                          const ScoreHead& head,
                          int64_t count,
                          const Function& f) {
  // Half a million multiply-adds are some 10 us, about twice what waking the threads costs.
  constexpr int64_t kWorkPerTask = 1 << 19;
  const int64_t work = count * head.num_bins * (head.hidden_size + 1);
  const int64_t useful = work / kWorkPerTask;
  const int64_t tasks = useful < parallel.num_threads ? useful : parallel.num_threads;
  if (tasks <= 1) return f(int64_t{0}, count);
  const int64_t share = (count + tasks - 1) / tasks;
  for_each(parallel, tasks, [&](int64_t i) {
    const int64_t begin = i * share, end = begin + share < count ? begin + share : count;
    if (begin < end) f(begin, end);
  });
}

// Size of one element.
S2T_HOST_DEVICE int64_t bytes_of(ScalarType type) { return type == ScalarType::kFloat32 ? 4 : 2; }

}  // namespace s2t::cpu
