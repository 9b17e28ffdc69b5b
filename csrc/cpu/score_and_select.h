#pragma once

#include "core/score_and_select.h"

namespace s2t::cpu {

// Totals of slots begin .. end - 1 of the batch * k slots, counted row by row. Disjoint ranges may
// run in different threads. cpu::select_token chooses when all are there.
void score_slots(const ScoreAndSelectParams& params, int64_t begin, int64_t end);

}  // namespace s2t::cpu
