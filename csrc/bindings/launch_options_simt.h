#pragma once

// How the next calls of s2t_ext_simt::* are launched; set by set_launch_options.

#include "cuda/workspace.h"

namespace s2t::bindings {

cuda::RowSplit& simt_split();

}  // namespace s2t::bindings
