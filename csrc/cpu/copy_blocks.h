#pragma once

#include "core/copy_blocks.h"
#include "cpu/parallel.h"

namespace s2t::cpu {

// Arguments are checked: every block is in every cache, and none is written that another pair reads
// or writes.
void copy_blocks(const CopyBlocksParams& params, const Parallel& parallel);

}  // namespace s2t::cpu
