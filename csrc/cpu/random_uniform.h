#pragma once

#include "core/random_uniform.h"

namespace s2t::cpu {

inline void random_uniform(const RandomUniformParams& params) {
  for (int64_t row = 0; row < params.batch; ++row) draw_uniform(params, row);
}

}  // namespace s2t::cpu
