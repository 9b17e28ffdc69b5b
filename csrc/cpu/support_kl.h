#pragma once

#include "core/support_kl.h"
#include "cpu/parallel.h"

namespace s2t::cpu {

// All rows. Params are assumed to have passed the binding's checks.
void support_kl(const SupportKLParams& params, const Parallel& parallel);

}  // namespace s2t::cpu
