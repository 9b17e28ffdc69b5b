// A row that has been scanned, and the walk over those of its chunks that a cutoff may keep.
#pragma once

#include "core/sample_token.h"
#include "row_merge.cuh"

namespace s2t::cuda {

// A row whose chunks have been scanned, by any blocks: their results are read past the L1 cache
// (load_stats, __ldcg).
template <class T>
struct TemperedRow {
  const T* logits;
  RowSource source;
  BlockedIds blocked;
  const ChunkStats* stats;  // [chunk_count(vocab)]
  // [kChunkSums, chunk_count(vocab)], relative to the chunk's maximum. The scan left the first
  // where there is a temperature and no top-k.
  float* sums;
  float best;  // finite
  float inverse_temperature;
};

// Sums of the weights that the last cutoff kept.
template <class T>
S2T_DEVICE float* kept_sums(const TemperedRow<T>& row) {
  return row.sums + chunk_count(row.source.vocab);
}

// Of sum_tied_weights().
template <class T>
S2T_DEVICE float* sums_without_ties(const TemperedRow<T>& row) {
  return row.sums + 2 * chunk_count(row.source.vocab);
}

template <class T>
S2T_DEVICE float chunk_maximum(const TemperedRow<T>& row, int64_t c) {
  return __ldcg(&row.stats[c].maximum);
}

// Calls body(c, x) in a warp for every chunk that may have a key >= cutoff, skip(c) for the others.
template <class T, class Body, class Skip>
S2T_DEVICE void for_kept_chunks(const TemperedRow<T>& row, Key cutoff, Body body, Skip skip) {
  const int64_t chunks = chunk_count(row.source.vocab);
  for (int64_t c = warp_id(); c < chunks; c += kSampleWarps) {
    const int64_t base = c * kChunkSize;
    if (make_key(chunk_maximum(row, c), static_cast<uint32_t>(base)) < cutoff) {
      skip(c);
      continue;
    }
    float x[kHeldLogits];
    read_chunk(row.logits, row.source, row.blocked, base, x);
    body(c, x);
  }
}

}  // namespace s2t::cuda
