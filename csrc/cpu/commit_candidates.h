#pragma once

#include "core/commit_candidates.h"
#include "cpu/parallel.h"

namespace s2t::cpu {

// Arguments are checked: every slot is less than k, every moved entry inside its buffer.
void commit_candidates(const CommitCandidatesParams& params, const Parallel& parallel);

}  // namespace s2t::cpu
