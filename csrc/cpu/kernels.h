#pragma once

// The CPU operators: params in, results written. Bindings call these; they pick the instruction
// set.

#include "core/propose_candidates.h"
#include "core/sample_token.h"
#include "core/support_kl.h"
#include "cpu/parallel.h"

namespace s2t::cpu {

void propose_candidates(const ProposeCandidatesParams& params, const Parallel& parallel);
void sample_token(const SampleTokenParams& params, const Parallel& parallel);
void support_kl(const SupportKLParams& params, const Parallel& parallel);

}  // namespace s2t::cpu
