#pragma once

// One uniform number a row, a pure function of (seed, position, purpose).

#include "philox.h"

namespace s2t {

struct RandomUniformParams {
  const int64_t* seed;      // [batch]
  const int64_t* position;  // [batch]
  int64_t batch;
  uint32_t purpose;  // keeps the draws of different decisions at one position apart
  float* uniform;    // [batch]: multiples of 2^-24 in [0, 1)
};

S2T_HOST_DEVICE void draw_uniform(const RandomUniformParams& params, int64_t row) {
  const auto purpose = static_cast<RandomPurpose>(params.purpose);
  params.uniform[row] = uniform24(philox(params.seed[row], params.position[row], purpose));
}

}  // namespace s2t
