#include "cpu/commit_candidates.h"

#include <cstring>

namespace s2t::cpu {

void commit_candidates(const CommitCandidatesParams& params, int64_t begin, int64_t end) {
  for (int64_t b = 0; b < params.batch; ++b) {
    const int64_t slot = params.slot[b];
    if (slot <= 0) continue;
    for (int64_t i = begin; i < end; ++i) {
      const CommitBuffer& buffer = params.buffers[i];
      char* target =
          buffer.data + b * buffer.batch_stride + params.start[b] * buffer.position_stride;
      for (int64_t h = 0; h < buffer.heads; ++h) {
        // Two positions of one head never overlap: slot > 0.
        std::memcpy(target, target + slot * buffer.position_stride,
                    static_cast<size_t>(buffer.entry_bytes));
        target += buffer.head_stride;
      }
    }
  }
}

}  // namespace s2t::cpu
