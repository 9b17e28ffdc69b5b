#include "cpu/commit_candidates.h"

#include <cstring>

namespace s2t::cpu {
namespace {

void move_winners(const CommitCandidatesParams& params, const CommitBuffer& buffer) {
  for (int64_t b = 0; b < params.batch; ++b) {
    const int64_t slot = params.slot[b];
    if (slot <= 0) continue;
    char* target = buffer.data + b * buffer.batch_stride + params.start[b] * buffer.position_stride;
    for (int64_t h = 0; h < buffer.heads; ++h) {
      std::memcpy(target, target + slot * buffer.position_stride,
                  static_cast<size_t>(buffer.entry_bytes));
      target += buffer.head_stride;
    }
  }
}

}  // namespace

void commit_candidates(const CommitCandidatesParams& params, const Parallel& parallel) {
  // A copy is a few cache misses: a thousand of them pay for waking the threads.
  constexpr int64_t kCopiesPerTask = 1000;
  int64_t copies = 0;
  for (int64_t i = 0; i < params.num_buffers; ++i) copies += params.batch * params.buffers[i].heads;
  const Parallel here = {parallel.run, 1};
  for_each(copies < 2 * kCopiesPerTask ? here : parallel, params.num_buffers,
           [&](int64_t i) { move_winners(params, params.buffers[i]); });
}

}  // namespace s2t::cpu
