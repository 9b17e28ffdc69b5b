// One block's part of a row: statistics of its chunks and the best of its logits, in one read.
//
// Chunks of 1,024 logits are dealt to the blocks of a row in runs, and inside a block to the warps
// in turn. Statistics of a chunk do not depend on who computes them; keys are unique: so neither
// does anything that is published here.
#pragma once

#include "select_keys.cuh"
#include "workspace.h"

namespace s2t::cuda {

constexpr int32_t kNanBit = static_cast<int32_t>(0x80000000u);

struct RowSource {
  const void* logits;
  int64_t row_stride;  // elements
  int64_t vocab;
  const int64_t* blocked_ids;
  int32_t num_blocked;
};

template <class T>
S2T_DEVICE const T* row_of(const RowSource& source, int64_t row) {
  return static_cast<const T*>(source.logits) + row * source.row_stride;
}

// A lane's share of one chunk, blocked ids taken out.
template <class T>
S2T_DEVICE void read_chunk(const T* row,
                           const RowSource& source,
                           BlockedIds blocked,
                           int64_t base,
                           float (&x)[kHeldLogits]) {
  load_chunk(row, source.vocab, base, lane_id(), x);
  if (source.num_blocked > 0) apply_blocked_ids(blocked, base, lane_id(), x);
}

// Starts the loads of a chunk that load_fetched() will want. Nothing for one beyond `last`, or one
// that is not whole.
template <class T>
S2T_DEVICE void fetch_ahead(
    const T* row, const RowSource& source, int64_t chunk, int64_t last, RawChunk<T>& raw) {
  if (chunk < last && is_whole_chunk(row, source.vocab, chunk * kChunkSize))
    fetch_chunk(row, chunk * kChunkSize, lane_id(), raw);
}

// read_chunk() of a chunk that fetch_ahead() was called for.
template <class T>
S2T_DEVICE void load_fetched(const T* row,
                             const RowSource& source,
                             BlockedIds blocked,
                             int64_t base,
                             const RawChunk<T>& raw,
                             float (&x)[kHeldLogits]) {
  if (is_whole_chunk(row, source.vocab, base)) {
    unpack_chunk(raw, x);
  } else {
    load_partial_chunk(row, source.vocab, base, lane_id(), x);
  }
  if (source.num_blocked > 0) apply_blocked_ids(blocked, base, lane_id(), x);
}

// Chunks [first, last) of the row: their statistics go to stats[0 ..) by chunk, their best keys
// into `selection`. True if one of this thread's logits is NaN. The loads of a warp's next chunk
// are in flight while it reduces the one at hand and offers its keys. each_chunk(chunk, x, maximum)
// is called by a warp for every chunk it holds. All threads of the block.
template <class T, int kThreads, class EachChunk>
S2T_DEVICE bool scan_chunks(const T* row,
                            const RowSource& source,
                            int64_t first,
                            int64_t last,
                            int wanted,
                            ChunkStats* stats,
                            KeySelection<kThreads>& selection,
                            EachChunk each_chunk) {
  constexpr int kWarps = kThreads / kWarpSize;
  const int lane = lane_id();
  const BlockedIds blocked = load_blocked_ids(source.blocked_ids, source.num_blocked, lane);
  bool nan_seen = false;
  RawChunk<T> next;
  fetch_ahead(row, source, first + warp_id(), last, next);
  for (int64_t round = first; round < last; round += kWarps) {
    const int64_t chunk = round + warp_id(), base = chunk * kChunkSize;
    float x[kHeldLogits];
    Key best = kNoKey;
    if (chunk < last) {  // the same for all lanes of a warp
      load_fetched(row, source, blocked, base, next, x);
      fetch_ahead(row, source, chunk + kWarps, last, next);
      nan_seen = nan_seen || has_nan(x);
      const float maximum = held_max(x);
      const ChunkStats chunk_stats = warp_chunk_stats(x, maximum);
      if (lane == 0) stats[chunk] = chunk_stats;
      each_chunk(chunk, x, chunk_stats.maximum);
      // once the threshold has risen, few lanes have to look for the place of their maximum
      if (ordered_bits(maximum) >= static_cast<uint32_t>(selection.threshold >> 32))
        best = held_best(x, maximum, base, lane);
    }
    offer_keys<kHeldLogits>(selection, wanted, best, [&](int i) {
      return make_key(x[i], static_cast<uint32_t>(held_id(base, lane, i)));
    });
  }
  return nan_seen;
}

struct RowPart {
  int64_t row;
  int block, blocks;
};

S2T_DEVICE RowPart row_part() {
  return {static_cast<int64_t>(blockIdx.y), static_cast<int>(blockIdx.x),
          static_cast<int>(gridDim.x)};
}

// Scans this block's run of chunks and publishes the result in the workspace; each_chunk as in
// scan_chunks(). All threads.
template <class T, int kThreads, class EachChunk>
S2T_DEVICE void scan_row_part(const RowSource& source,
                              RowPart part,
                              int wanted,
                              const RowWorkspace& workspace,
                              KeySelection<kThreads>& selection,
                              EachChunk each_chunk) {
  const int64_t chunks = chunk_count(source.vocab);
  const int64_t first = chunks * part.block / part.blocks,
                last = chunks * (part.block + 1) / part.blocks;
  begin_selection(selection);
  const bool nan_seen = scan_chunks(row_of<T>(source, part.row), source, first, last, wanted,
                                    workspace.stats + part.row * chunks, selection, each_chunk);
  const bool block_nan_seen = __syncthreads_or(nan_seen) != 0;
  int count = selection.count;
  if (count > kPublished) {  // the same for all threads
    __syncthreads();
    compact_selection(selection, wanted, count);
    count = selection.count;
  }
  const int64_t list = part.row * part.blocks + part.block;
  for (int i = thread_id(); i < count; i += kThreads)
    __stcg(reinterpret_cast<unsigned long long*>(workspace.published) + list * kPublished + i,
           static_cast<unsigned long long>(selection.kept[i]));
  if (thread_id() == 0) __stcg(workspace.counts + list, count | (block_nan_seen ? kNanBit : 0));
}

// True in the block of the row that finishes last; it may then read what all have published. Nobody
// waits. All threads.
S2T_DEVICE bool arrives_last(const RowWorkspace& workspace, RowPart part, bool& shared_flag) {
  __syncthreads();  // everything this block published is behind it, and the fence below covers it
  if (part.blocks == 1) return true;  // the same for all threads
  if (thread_id() == 0) {
    __threadfence();
    shared_flag =
        atomicAdd(workspace.arrivals + part.row, 1u) == static_cast<unsigned>(part.blocks) - 1u;
    __threadfence();
  }
  __syncthreads();
  return shared_flag;
}

}  // namespace s2t::cuda
