#pragma once

// Walks over one chunk (1,024 logits) of a row, for `*_kernel.cpp`. See vec.h for the rules.
//
// A chunk is presented as 1,024 floats: the row itself where it is float32, whole and unblocked,
// else a copy in a buffer, widened, with -inf for blocked ids and beyond the end of the row.

#include "cpu/row_scan.h"
#include "cpu/vec.h"

namespace s2t::cpu::S2T_CPU_ISA {
namespace {

constexpr int kChunkVecs = kChunkSize / kLanes;
constexpr int kPartialVecs = kChunkPartials / kLanes;

struct alignas(64) ChunkBuffer {
  float values[kChunkSize];
};

struct PresentedChunk {
  const float* x;  // kChunkSize floats
  Vec maxima;      // lane i: the largest of the elements i mod 16; -inf if none is valid
  bool has_nan;
};

// Maxima, and whether a NaN was met; copies what it reads if kCopy.
template <bool kCopy, typename Element>
S2T_HOST_DEVICE PresentedChunk walk_maxima(const Element* source, float* copy) {
  constexpr int kChains = 4;  // independent maxima, to hide the latency of the instruction
  Vec maxima[kChains];
  for (Vec& chain : maxima) chain = Vec(negative_infinity());
  uint32_t nan_lanes = 0;
  for (int v = 0; v < kChunkVecs; v += kChains) {
    Vec x[kChains];
    for (int i = 0; i < kChains; ++i) {
      x[i] = load(source + (v + i) * kLanes);
      if (kCopy) store(copy + (v + i) * kLanes, x[i]);
      maxima[i] = max_ignoring_nan(x[i], maxima[i]);
    }
    for (int i = 0; i < kChains; i += 2) nan_lanes |= nan_mask(x[i], x[i + 1]);
  }
  return PresentedChunk{copy,
                        max_ignoring_nan(max_ignoring_nan(maxima[0], maxima[1]),
                                         max_ignoring_nan(maxima[2], maxima[3])),
                        nan_lanes != 0};
}

// The blocked ids a walk over ascending chunks has not met yet.
struct BlockedCursor {
  const int64_t* next;
  const int64_t* end;

  S2T_HOST_DEVICE explicit BlockedCursor(const BlockedIds& blocked)
      : next(blocked.ids), end(blocked.ids + blocked.count) {}

  S2T_HOST_DEVICE void skip_below(int64_t id) {
    while (next != end && *next < id) ++next;
  }
};

// True if chunk c can be read as it lies: whole, and without blocked ids.
S2T_HOST_DEVICE bool is_plain(int64_t c, int64_t vocab, BlockedCursor& blocked) {
  const int64_t first_id = c * kChunkSize, end_id = first_id + kChunkSize;
  blocked.skip_below(first_id);
  return end_id <= vocab && (blocked.next == blocked.end || *blocked.next >= end_id);
}

// Copies chunk c with -inf at blocked ids and beyond the row. After is_plain(), for the cursor.
template <typename Element>
S2T_HOST_DEVICE void copy_patched(
    const Element* row, int64_t vocab, int64_t c, const BlockedCursor& blocked, float* buffer) {
  const int64_t first_id = c * kChunkSize;
  for (int64_t i = 0; i < kChunkSize; i += kLanes) {
    const int64_t left = vocab - first_id - i;
    const Element* source = row + first_id + i;
    store(buffer + i,
          left >= kLanes ? load(source) : load_first(source, left, negative_infinity()));
  }
  for (const int64_t* id = blocked.next; id != blocked.end && *id < first_id + kChunkSize; ++id) {
    buffer[*id - first_id] = negative_infinity();
  }
}

S2T_HOST_DEVICE PresentedChunk present_plain(const float* chunk, float*) {
  PresentedChunk result = walk_maxima<false>(chunk, nullptr);
  result.x = chunk;
  return result;
}

template <typename Element>
S2T_HOST_DEVICE PresentedChunk present_plain(const Element* chunk, float* buffer) {
  return walk_maxima<true>(chunk, buffer);
}

// Chunk c of the row; `blocked` has met the blocked ids of earlier chunks at most.
template <typename Element>
S2T_HOST_DEVICE PresentedChunk
present_chunk(const Element* row, int64_t vocab, int64_t c, BlockedCursor& blocked, float* buffer) {
  if (is_plain(c, vocab, blocked)) return present_plain(row + c * kChunkSize, buffer);
  copy_patched(row, vocab, c, blocked, buffer);
  return present_plain(static_cast<const float*>(buffer), nullptr);
}

// ChunkStats of core/canonical_math.h, the maximum given. Without kWeighted, weighted_sum is 0.
template <bool kWeighted>
S2T_HOST_DEVICE ChunkStats walk_exponentials(const float* x, float maximum) {
  Vec sums[kPartialVecs], weighted_sums[kPartialVecs];
  const Vec m(maximum);
  for (int p = 0; p < kPartialVecs; ++p) {
    Vec sum(0.0f), weighted_sum(0.0f);
    for (int i = p * kLanes; i < kChunkSize; i += kChunkPartials) {
      const Vec d = at_least_cutoff(load(x + i) - m);
      const Vec e = exp_in_range(d);
      sum = sum + e;
      if (kWeighted) weighted_sum = fma_canonical(e, d, weighted_sum);
    }
    sums[p] = sum;
    if (kWeighted) weighted_sums[p] = weighted_sum;
  }
  return finished_chunk(maximum, chunk_tree_sum(sums),
                        kWeighted ? chunk_tree_sum(weighted_sums) : 0.0f);
}

// Chunk sum of exp_canonical((x - maximum) * inverse_temperature).
S2T_HOST_DEVICE float walk_tempered(const float* x, float maximum, float inverse_temperature) {
  Vec sums[kPartialVecs];
  const Vec m(maximum), scale(inverse_temperature);
  for (int p = 0; p < kPartialVecs; ++p) {
    Vec sum(0.0f);
    for (int i = p * kLanes; i < kChunkSize; i += kChunkPartials) {
      sum = sum + exp_canonical((load(x + i) - m) * scale);
    }
    sums[p] = sum;
  }
  return chunk_tree_sum(sums);
}

}  // namespace
}  // namespace s2t::cpu::S2T_CPU_ISA
