#pragma once

#include "bindings/logits_checks.h"

namespace s2t::bindings {

inline void check_propose_candidates(const char* op,
                                     const Tensor& logits,
                                     int64_t k,
                                     int64_t support,
                                     const std::optional<Tensor>& blocked_ids) {
  check_logits(op, "logits", logits);
  check_range(op, "k", k, 1, kMaxCandidates);
  if (support != 0 && (support < k || support > kMaxCandidates)) {
    fail(op, "support", "be 0 or in [k, " + std::to_string(kMaxCandidates) + "]",
         std::to_string(support));
  }
  check_blocked_ids(op, blocked_ids, logits);
}

}  // namespace s2t::bindings
