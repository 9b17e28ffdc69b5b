#pragma once

// Scoring of a group of hidden states: what score_candidates and score_and_select share.

#include "core/score_candidates.h"

namespace s2t::cpu {

constexpr int kGroupSize = 64;  // a multiple of what the kernel takes at once

// A head with its vectors padded by zeros, so that the kernel loads whole registers.
struct PaddedHead {
  ScoreHead head;
  float bias[kMaxBins];
  float bin_values[kMaxBins];
};

PaddedHead pad(const ScoreHead& head);

using ScoreGroup = void(const PaddedHead& head,
                        ScalarType hidden_type,
                        const void* const* hidden,  // [count] pointers to [hidden_size]
                        int count,
                        float* scores);  // [count]

// The one for the instruction set in use.
ScoreGroup* score_group();

// Size of one element.
S2T_HOST_DEVICE int64_t bytes_of(ScalarType type) { return type == ScalarType::kFloat32 ? 4 : 2; }

}  // namespace s2t::cpu
