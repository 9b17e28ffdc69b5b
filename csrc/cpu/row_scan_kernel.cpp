// One read of a part of a row: per chunk of 1,024 logits, while it is in the first-level cache,
//
//   1. a walk for the maximum (and NaN);
//   2. if the maximum reaches the threshold, a walk that puts the keys of all elements at or above
//   it
//      into a reservoir. The threshold is the num_best-th best key seen so far, so most chunks are
//      skipped: of 150,000 elements in random order about 600 get in for num_best = 64;
//   3. a walk that sums exponentials relative to the chunk's maximum.
//
// The first chunk's threshold comes from delegates: the num_best-th largest of 256 maxima over
// disjoint sets of elements has at least num_best elements at or above it.

#include "cpu/chunk.h"

namespace s2t::cpu::S2T_CPU_ISA {
namespace {

// -- the best keys --------------------------------------------------------------------------------

struct Reservoir {
  Key* keys;
  int64_t count;
  int64_t num_best;
  Key threshold;  // at least num_best elements have this key or a larger one; kNoKey at first
};

S2T_HOST_DEVICE void keep_best(Reservoir& reservoir) {
  if (reservoir.count <= reservoir.num_best) return;
  partition_largest(reservoir.keys, reservoir.count, reservoir.num_best);
  reservoir.count = reservoir.num_best;
  const Key last = reservoir.keys[reservoir.num_best - 1];
  if (last > reservoir.threshold) reservoir.threshold = last;
}

// Adds the elements whose keys reach the threshold.
void collect(const float* x, uint32_t first_id, Reservoir& reservoir) {
  constexpr int kGroup = 64;
  const Vec threshold(key_logit(reservoir.threshold));
  Key* end = reservoir.keys + reservoir.count;
  for (int i = 0; i < kChunkSize; i += kGroup) {
    uint64_t passing = 0;
    for (int v = 0; v < kGroup; v += kLanes) {
      passing |= static_cast<uint64_t>(mask_at_least(load(x + i + v), threshold)) << v;
    }
    for (; passing != 0; passing &= passing - 1) {
      const uint32_t element = static_cast<uint32_t>(i + __builtin_ctzll(passing));
      const Key key = make_key(x[element], first_id + element);
      *end = key;
      end += key >= reservoir.threshold && key != kNoKey;
    }
  }
  reservoir.count = end - reservoir.keys;
}

// A first threshold from 256 delegates; kNoKey if they cannot tell.
Key delegate_threshold(const float* x, int64_t num_best) {
  if (num_best >= kChunkPartials) return kNoKey;
  float delegates[kChunkPartials];
  for (int p = 0; p < kChunkPartials; p += kLanes) {
    Vec maximum(negative_infinity());
    for (int i = p; i < kChunkSize; i += kChunkPartials) {
      maximum = max_ignoring_nan(load(x + i), maximum);
    }
    store(delegates + p, maximum);
  }
  Key keys[kChunkPartials];
  for (int p = 0; p < kChunkPartials; ++p) keys[p] = make_key(delegates[p], 0xFFFFFFFFu);
  partition_largest(keys, kChunkPartials, num_best);
  return keys[num_best - 1];
}

// -- the part -------------------------------------------------------------------------------------

template <bool kWeighted, typename Element>
void scan(ScanPart& part) {
  const Element* row = static_cast<const Element*>(part.row);
  Reservoir reservoir = {part.keys, 0, part.num_best, kNoKey};
  BlockedCursor blocked(*part.blocked);
  ChunkBuffer buffer;
  bool has_nan = false;
  for (int64_t c = part.first_chunk; c < part.end_chunk; ++c) {
    const PresentedChunk chunk = present_chunk(row, part.vocab, c, blocked, buffer.values);
    has_nan |= chunk.has_nan;

    if (c == part.first_chunk) reservoir.threshold = delegate_threshold(chunk.x, part.num_best);
    if (is_candidate(chunk.maximum) && chunk.maximum >= key_logit(reservoir.threshold)) {
      collect(chunk.x, static_cast<uint32_t>(c * kChunkSize), reservoir);
      if (reservoir.count >= reservoir_limit(part.num_best)) keep_best(reservoir);
    }

    const char* next = reinterpret_cast<const char*>(row + (c + 1) * kChunkSize);
    const int64_t index = c - part.first_chunk;
    part.stats[index] =
        walk_exponentials<kWeighted>(chunk.x, chunk.maximum, next, kChunkSize * sizeof(Element));
    if (part.tempered_sums != nullptr) {
      part.tempered_sums[index] = walk_tempered(chunk.x, chunk.maximum, part.inverse_temperature);
    }
  }
  keep_best(reservoir);
  part.num_keys = reservoir.count;
  part.has_nan = has_nan;
}

template <typename Element>
void scan(ScanPart& part) {
  if (part.has_entropy) {
    scan<true, Element>(part);
  } else {
    scan<false, Element>(part);
  }
}

}  // namespace

void scan_part(ScanPart& part) {
  switch (part.type) {
    case ScalarType::kFloat32:
      return scan<float>(part);
    case ScalarType::kBFloat16:
      return scan<BFloat16>(part);
    case ScalarType::kFloat16:
      return scan<Float16>(part);
  }
}

RowStats merge_row(const ChunkStats* chunks, int64_t count) { return merge_chunks(chunks, count); }

}  // namespace s2t::cpu::S2T_CPU_ISA
