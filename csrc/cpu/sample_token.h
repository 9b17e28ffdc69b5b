#pragma once

#include "core/sample_token.h"
#include "cpu/parallel.h"

namespace s2t::cpu {

// All rows. Params are assumed to have passed the binding's checks.
void sample_token(const SampleTokenParams& params, const Parallel& parallel);

}  // namespace s2t::cpu
