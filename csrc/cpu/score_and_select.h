#pragma once

#include "core/score_and_select.h"
#include "cpu/parallel.h"

namespace s2t::cpu {

void score_and_select(const ScoreAndSelectParams& params, const Parallel& parallel);

}  // namespace s2t::cpu
