// Scratch memory of the kernels that split a row over several blocks.
//
// The caller owns it, one per launch in flight: two launches that may run at the same time need
// two. Only `arrivals` must be zero before the first launch; every launch leaves it zero, so it
// serves any number of replays of a graph.
#pragma once

#include <cstdint>

#include "core/canonical_math.h"
#include "core/ordering.h"
#include "tuning.h"

namespace s2t::cuda {

struct RowWorkspace {
  ChunkStats* stats;   // [batch, chunk_count(vocab)]
  Key* published;      // [batch, blocks per row, kPublished]
  int32_t* counts;     // [batch, blocks per row]: keys published; the top bit tells of a NaN
  uint32_t* arrivals;  // [batch]: blocks of the row that are done

  RowWorkspace from_row(int64_t row, int64_t vocab, int blocks) const {
    return {stats + row * chunk_count(vocab), published + row * blocks * kPublished,
            counts + row * blocks, arrivals + row};
  }
};

struct RowWorkspaceBytes {
  int64_t published, stats, counts;  // in this order in memory, each a multiple of 16
  int64_t total() const { return published + stats + counts; }
};

inline RowWorkspaceBytes row_workspace_bytes(int64_t batch, int64_t vocab, int blocks) {
  const auto aligned = [](int64_t bytes) { return (bytes + 15) / 16 * 16; };
  return {aligned(batch * blocks * kPublished * static_cast<int64_t>(sizeof(Key))),
          aligned(batch * chunk_count(vocab) * static_cast<int64_t>(sizeof(ChunkStats))),
          aligned(batch * blocks * static_cast<int64_t>(sizeof(int32_t)))};
}

// `memory`: row_workspace_bytes().total() bytes, 16-byte aligned. `arrivals`: [batch], zero.
inline RowWorkspace row_workspace(
    void* memory, uint32_t* arrivals, int64_t batch, int64_t vocab, int blocks) {
  const RowWorkspaceBytes bytes = row_workspace_bytes(batch, vocab, blocks);
  char* start = static_cast<char*>(memory);
  return {reinterpret_cast<ChunkStats*>(start + bytes.published), reinterpret_cast<Key*>(start),
          reinterpret_cast<int32_t*>(start + bytes.published + bytes.stats), arrivals};
}

// How a launch is split. Results do not depend on it.
struct RowSplit {
  int blocks = 0;  // per row; 0: as tuning.h says
  bool two_launches =
      false;  // scan and merge as two kernels: no atomics; for debugging and as a fallback
};

inline int resolve_blocks(const RowSplit& split, int64_t batch, int64_t vocab) {
  const int64_t chunks = chunk_count(vocab);
  if (split.blocks <= 0) return blocks_per_row(batch, vocab);
  return static_cast<int>(split.blocks < chunks ? split.blocks : chunks);
}

}  // namespace s2t::cuda
