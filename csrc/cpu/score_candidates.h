#pragma once

#include "core/score_candidates.h"
#include "cpu/parallel.h"

namespace s2t::cpu {

void score_candidates(const ScoreCandidatesParams& params, const Parallel& parallel);

}  // namespace s2t::cpu
