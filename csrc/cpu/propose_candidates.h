#pragma once

#include "core/propose_candidates.h"
#include "cpu/parallel.h"

namespace s2t::cpu {

// All rows. Params are assumed to have passed the binding's checks.
void propose_candidates(const ProposeCandidatesParams& params, const Parallel& parallel);

}  // namespace s2t::cpu
