#pragma once

// What sample_token needs per instruction set: weights of keys, masses of chunks
// (core/sample_token.h).

#include "core/sample_token.h"
#include "cpu/isa.h"
#include "cpu/row_scan.h"

namespace s2t::cpu {

// Of `count` keys in descending order: the scaled logit and the weight.
S2T_DECLARE_KERNEL(void key_weights(const Key* keys,
                                    int64_t count,
                                    float inverse_temperature,
                                    float* scaled,
                                    float* weights);)

// A row whose chunks have been scanned.
struct TemperedRow {
  const void* row;
  ScalarType type;
  int64_t vocab;
  const BlockedIds* blocked;
  const ChunkStats* chunks;  // [chunk_count(vocab)]
  float best;                // finite
  float inverse_temperature;
};

// mass[c] of every chunk, given each chunk's sum of kept weights relative to its maximum.
S2T_DECLARE_KERNEL(void chunk_masses(const TemperedRow& row, const float* kept_sums, double* mass);)

// That sum, for every chunk, of the elements with key >= cutoff.
S2T_DECLARE_KERNEL(void kept_sums(const TemperedRow& row, Key cutoff, float* sums);)

// The kept weights of chunk c relative to its maximum: kChunkSize values, 0 where not kept.
S2T_DECLARE_KERNEL(
    void kept_weights(const TemperedRow& row, int64_t c, Key cutoff, float* weights);)

}  // namespace s2t::cpu
