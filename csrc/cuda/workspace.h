// Scratch memory of the kernels that split a row over several blocks.
//
// The caller owns it, one per launch in flight: two launches that may run at the same time need
// two. It may hold anything: the launcher zeroes `arrivals` in the order of the stream.
#pragma once

#include <cstdint>

#include "core/canonical_math.h"
#include "core/host_device.h"
#include "core/ordering.h"
#include "tuning.h"

namespace s2t::cuda {

constexpr int kChunkSums = 3;  // of the whole chunk, of what a cutoff keeps, of that without ties

struct RowWorkspace {
  ChunkStats* stats;   // [batch, chunk_count(vocab)]
  Key* published;      // [batch, blocks per row, kPublished]
  int32_t* counts;     // [batch, blocks per row]: keys published; the top bit tells of a NaN
  uint32_t* arrivals;  // [batch]: blocks of the row that are done; not used if blocks is 1
  int blocks;          // per row; results do not depend on it

  RowWorkspace from_row(int64_t row, int64_t vocab) const {
    return {stats + row * chunk_count(vocab), published + row * blocks * kPublished,
            counts + row * blocks, arrivals + row, blocks};
  }
};

// What sample_token keeps of a row beside it: sums of a chunk's weights relative to its maximum.
struct SampleWorkspace : RowWorkspace {
  float* sums;  // [batch, kChunkSums, chunk_count(vocab)]

  S2T_HOST_DEVICE float* row_sums(int64_t row, int64_t vocab) const {
    return sums + row * kChunkSums * chunk_count(vocab);
  }

  SampleWorkspace from_row(int64_t row, int64_t vocab) const {
    return {RowWorkspace::from_row(row, vocab), row_sums(row, vocab)};
  }
};

struct RowWorkspaceBytes {
  int64_t published, stats, counts, arrivals;  // in this order in memory, each a multiple of 16
  int64_t total() const { return published + stats + counts + arrivals; }
};

inline RowWorkspaceBytes row_workspace_bytes(int64_t batch, int64_t vocab, int blocks) {
  const auto aligned = [](int64_t bytes) { return (bytes + 15) / 16 * 16; };
  return {aligned(batch * blocks * kPublished * static_cast<int64_t>(sizeof(Key))),
          aligned(batch * chunk_count(vocab) * static_cast<int64_t>(sizeof(ChunkStats))),
          aligned(batch * blocks * static_cast<int64_t>(sizeof(int32_t))),
          aligned(batch * static_cast<int64_t>(sizeof(uint32_t)))};
}

// `memory`: row_workspace_bytes().total() bytes, 16-byte aligned.
inline RowWorkspace row_workspace(void* memory, int64_t batch, int64_t vocab, int blocks) {
  const RowWorkspaceBytes bytes = row_workspace_bytes(batch, vocab, blocks);
  char* published = static_cast<char*>(memory);
  char* stats = published + bytes.published;
  char* counts = stats + bytes.stats;
  char* arrivals = counts + bytes.counts;
  return {reinterpret_cast<ChunkStats*>(stats), reinterpret_cast<Key*>(published),
          reinterpret_cast<int32_t*>(counts), reinterpret_cast<uint32_t*>(arrivals), blocks};
}

}  // namespace s2t::cuda
