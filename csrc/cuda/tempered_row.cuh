// A row that one block has scanned, and the walk over those of its chunks that a cutoff may keep.
#pragma once

#include "core/sample_token.h"
#include "row_scan.cuh"

namespace s2t::cuda {

constexpr int kSampleWarps = kSampleThreads / kWarpSize;

// A row whose chunks have been scanned by this block.
template <class T>
struct TemperedRow {
  const T* logits;
  RowSource source;
  BlockedIds blocked;
  const ChunkStats* stats;  // [chunk_count(vocab)]
  float* sums;  // [chunk_count(vocab)]: of the weights the last cutoff kept, relative to the
                // chunk's maximum
  float* without_ties;  // [chunk_count(vocab)], of sum_tied_weights()
  float best;           // finite
  float inverse_temperature;
};

// Calls body(c, x) in a warp for every chunk that may have a key >= cutoff, skip(c) for the others.
template <class T, class Body, class Skip>
S2T_DEVICE void for_kept_chunks(const TemperedRow<T>& row, Key cutoff, Body body, Skip skip) {
  const int64_t chunks = chunk_count(row.source.vocab);
  for (int64_t c = warp_id(); c < chunks; c += kSampleWarps) {
    const int64_t base = c * kChunkSize;
    if (make_key(row.stats[c].maximum, static_cast<uint32_t>(base)) < cutoff) {
      skip(c);
      continue;
    }
    float x[kHeldLogits];
    read_chunk(row.logits, row.source, row.blocked, base, x);
    body(c, x);
  }
}

}  // namespace s2t::cuda
