#pragma once

#include "core/commit_candidates.h"

namespace s2t::cpu {

// Moves the winners' entries in buffers begin .. end - 1. Disjoint ranges may run in different
// threads.
void commit_candidates(const CommitCandidatesParams& params, int64_t begin, int64_t end);

}  // namespace s2t::cpu
