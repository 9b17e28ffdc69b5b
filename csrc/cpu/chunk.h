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
  float maximum;   // -inf if nothing is valid
  bool has_nan;
};

// Maximum, and whether a NaN was met; copies what it reads if kCopy.
template <bool kCopy, typename Element>
S2T_HOST_DEVICE PresentedChunk walk_maximum(const Element* source, float* copy) {
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
  const Vec maximum = max_ignoring_nan(max_ignoring_nan(maxima[0], maxima[1]),
                                       max_ignoring_nan(maxima[2], maxima[3]));
  return PresentedChunk{copy, max_lane(maximum), nan_lanes != 0};
}

S2T_HOST_DEVICE PresentedChunk present(const float* chunk, float*) {
  PresentedChunk result = walk_maximum<false>(chunk, nullptr);
  result.x = chunk;
  return result;
}

template <typename Element>
S2T_HOST_DEVICE PresentedChunk present(const Element* chunk, float* buffer) {
  return walk_maximum<true>(chunk, buffer);
}

// The blocked ids a walk over ascending chunks has not met yet.
struct BlockedCursor {
  const int64_t* next;
  const int64_t* end;

  S2T_HOST_DEVICE explicit BlockedCursor(const BlockedIds& blocked)
      : next(blocked.ids), end(blocked.ids + blocked.count) {}
};

// Chunk c of the row. Moves the cursor past the chunk.
template <typename Element>
S2T_HOST_DEVICE PresentedChunk
present_chunk(const Element* row, int64_t vocab, int64_t c, BlockedCursor& blocked, float* buffer) {
  const int64_t first_id = c * kChunkSize;
  const Element* chunk = row + first_id;
  while (blocked.next != blocked.end && *blocked.next < first_id) ++blocked.next;
  const int64_t count = vocab - first_id < kChunkSize ? vocab - first_id : kChunkSize;
  const bool is_blocked = blocked.next != blocked.end && *blocked.next < first_id + kChunkSize;
  if (count == kChunkSize && !is_blocked) return present(chunk, buffer);
  for (int64_t i = 0; i < kChunkSize; i += kLanes) {
    const int64_t left = count - i;
    const Vec x =
        left >= kLanes ? load(chunk + i) : load_first(chunk + i, left, negative_infinity());
    store(buffer + i, x);
  }
  for (; blocked.next != blocked.end && *blocked.next < first_id + kChunkSize; ++blocked.next) {
    buffer[*blocked.next - first_id] = negative_infinity();
  }
  return present(static_cast<const float*>(buffer), nullptr);
}

// ChunkStats of core/canonical_math.h, the maximum given. Without kWeighted, weighted_sum is 0.
// Prefetches one chunk's bytes from `next`: chunks are pages, where hardware prefetchers stop.
template <bool kWeighted>
S2T_HOST_DEVICE ChunkStats
walk_exponentials(const float* x, float maximum, const char* next, int bytes_to_prefetch) {
  constexpr int kCacheLine = 64;
  Vec sums[kPartialVecs], weighted_sums[kPartialVecs];
  const Vec m(maximum);
  for (int p = 0; p < kPartialVecs; ++p) {
    for (int b = 0; b < bytes_to_prefetch / kPartialVecs; b += kCacheLine) {
      __builtin_prefetch(next + p * (bytes_to_prefetch / kPartialVecs) + b);
    }
    Vec sum(0.0f), weighted_sum(0.0f);
    for (int i = p * kLanes; i < kChunkSize; i += kChunkPartials) {
      const Vec d = load(x + i) - m;
      const Vec e = exp_canonical(d);
      sum = sum + e;
      if (kWeighted) weighted_sum = add_weighted(weighted_sum, e, d);
    }
    sums[p] = sum;
    if (kWeighted) weighted_sums[p] = weighted_sum;
  }
  return ChunkStats{maximum, chunk_tree_sum(sums),
                    kWeighted ? chunk_tree_sum(weighted_sums) : 0.0f};
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
