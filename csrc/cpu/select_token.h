#pragma once

#include "core/select_token.h"

namespace s2t::cpu {

void select_token(const SelectTokenParams& params);

}  // namespace s2t::cpu
