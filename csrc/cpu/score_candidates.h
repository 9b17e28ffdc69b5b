#pragma once

#include "core/score_candidates.h"

namespace s2t::cpu {

// Scores of candidates begin .. end - 1. Disjoint ranges may run in different threads.
void score_candidates(const ScoreCandidatesParams& params, int64_t begin, int64_t end);

}  // namespace s2t::cpu
