#include "cpu/select_token.h"

namespace s2t::cpu {

// A row is a few nanoseconds of work on at most 64 scores: no vectors, no threads.
void select_token(const SelectTokenParams& params) {
  for (int64_t row = 0; row < params.batch; ++row) select_row(params, row);
}

}  // namespace s2t::cpu
