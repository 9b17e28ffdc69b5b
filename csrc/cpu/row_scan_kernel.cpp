// One read of a part of a row. Per chunk of 1,024 logits, while it is in the first-level cache:
//
//   1. a walk for the maximum, in 16 lanes that are kept as delegates (and for NaN);
//   2. a walk that sums exponentials relative to the maximum.
//
// Then the best keys. The num_best-th largest delegate is a threshold that at least num_best
// elements reach, and few more: about 70 of 150,000 for num_best = 64. Only chunks whose maximum
// reaches it are looked at again (a third of them, from the second-level cache), and only elements
// that reach it get a key. This costs a tenth of keeping a running threshold, whose branches no
// predictor guesses.

#include "cpu/chunk.h"

namespace s2t::cpu::S2T_CPU_ISA {
namespace {

static_assert(kDelegates == kLanes, "a chunk's delegates are the lanes of one vector");

// -- the best keys --------------------------------------------------------------------------------

// The least value above `value`, or above every number: a NaN.
S2T_HOST_DEVICE float next_above(float value) {
  return value_of_ordered_bits(ordered_bits(value) + 1);
}

S2T_HOST_DEVICE int64_t count_at_least(const float* values, int64_t count, float least) {
  int64_t result = 0;
  for (int64_t i = 0; i < count; i += kLanes) {
    result += __builtin_popcount(mask_at_least(load(values + i), Vec(least)));
  }
  return result;
}

// A value that at least num_best of the delegates reach, and not many more, by bisection; the least
// number if there are too few of them. `count` is a multiple of the lanes.
float delegate_threshold(const float* delegates, int64_t count, int64_t num_best) {
  const float least_number = next_above(negative_infinity());
  if (count_at_least(delegates, count, least_number) < num_best) return least_number;
  Vec maxima(negative_infinity()), negated_minima(negative_infinity());
  for (int64_t i = 0; i < count; i += kLanes) {
    maxima = max_ignoring_nan(load(delegates + i), maxima);
    negated_minima = max_ignoring_nan(Vec(0.0f) - load(delegates + i), negated_minima);
  }
  const float minimum = -max_lane(negated_minima);
  const int64_t enough = num_best + num_best / 8 + 4;
  uint32_t passing = ordered_bits(minimum > least_number ? minimum : least_number);
  uint32_t failing = ordered_bits(max_lane(maxima)) + 1;
  while (failing - passing > 1) {
    const uint32_t middle = passing + (failing - passing) / 2;
    const int64_t reaching = count_at_least(delegates, count, value_of_ordered_bits(middle));
    if (reaching >= num_best) {
      passing = middle;
      if (reaching <= enough) break;
    } else {
      failing = middle;
    }
  }
  return value_of_ordered_bits(passing);
}

struct Reservoir {
  Key* keys;
  int64_t count;
  int64_t num_best;
  float least;  // elements below cannot be among the best
};

// Drops all but the best. Later elements have larger ids: equal to the last one kept, they lose.
S2T_HOST_DEVICE void keep_best(Reservoir& reservoir) {
  if (reservoir.count <= reservoir.num_best) return;
  partition_largest(reservoir.keys, reservoir.count, reservoir.num_best);
  reservoir.count = reservoir.num_best;
  reservoir.least = next_above(key_logit(reservoir.keys[reservoir.num_best - 1]));
}

// Adds the elements of a chunk that reach the least value.
template <typename Element>
S2T_HOST_DEVICE void collect(const Element* x, uint32_t first_id, Reservoir& reservoir) {
  constexpr int kGroup = 64;
  const Vec least(reservoir.least);
  for (int i = 0; i < kChunkSize; i += kGroup) {
    uint64_t reaching = 0;
    for (int v = 0; v < kGroup; v += kLanes) {
      reaching |= static_cast<uint64_t>(mask_at_least(load(x + i + v), least)) << v;
    }
    for (; reaching != 0; reaching &= reaching - 1) {
      const uint32_t element = static_cast<uint32_t>(i + __builtin_ctzll(reaching));
      reservoir.keys[reservoir.count++] = make_key(to_float(x[element]), first_id + element);
    }
  }
}

template <typename Element>
void find_best(ScanPart& part) {
  const Element* row = static_cast<const Element*>(part.row);
  const int64_t num_chunks = part.end_chunk - part.first_chunk;
  const float least = delegate_threshold(part.delegates, num_chunks * kDelegates, part.num_best);
  Reservoir reservoir = {part.keys, 0, part.num_best, least};
  BlockedCursor blocked(*part.blocked);
  ChunkBuffer buffer;
  for (int64_t i = 0; i < num_chunks; ++i) {
    if (!(part.stats[i].maximum >= reservoir.least)) continue;
    const int64_t c = part.first_chunk + i;
    const uint32_t first_id = static_cast<uint32_t>(c * kChunkSize);
    if (is_plain(c, part.vocab, blocked)) {
      collect(row + first_id, first_id, reservoir);
    } else {
      copy_patched(row, part.vocab, c, blocked, buffer.values);
      collect(buffer.values, first_id, reservoir);
    }
    if (reservoir.count >= reservoir_limit(part.num_best)) keep_best(reservoir);
  }
  part.num_keys = reservoir.count;
}

// -- the part -------------------------------------------------------------------------------------

template <bool kWeighted, typename Element>
void scan(ScanPart& part) {
  const Element* row = static_cast<const Element*>(part.row);
  BlockedCursor blocked(*part.blocked);
  ChunkBuffer buffer;
  bool has_nan = false;
  for (int64_t c = part.first_chunk; c < part.end_chunk; ++c) {
    const PresentedChunk chunk = present_chunk(row, part.vocab, c, blocked, buffer.values);
    const int64_t i = c - part.first_chunk;
    const float maximum = max_lane(chunk.maxima);
    has_nan |= chunk.has_nan;
    store(part.delegates + i * kDelegates, chunk.maxima);
    part.stats[i] = walk_exponentials<kWeighted>(chunk.x, maximum);
    if (part.tempered_sums != nullptr) {
      part.tempered_sums[i] = walk_tempered(chunk.x, maximum, part.inverse_temperature);
    }
  }
  part.has_nan = has_nan;
  find_best<Element>(part);
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

int64_t sort_best(Key* keys, int64_t count, int64_t num_best) {
  constexpr int kRankLimit = 160;
  if (count > kRankLimit && count > num_best) {
    partition_largest(keys, count, num_best);
    count = num_best;
  }
  if (count > kRankLimit) {
    sort_largest_first(keys, count);
    return count;
  }
  // By rank: quadratic, but in wide registers and without a branch to guess wrong.
  Key unsorted[kRankLimit];
  for (int64_t i = 0; i < count; ++i) unsorted[i] = keys[i];
  for (int64_t i = 0; i < count; ++i) {
    uint64_t rank = 0;
    for (int64_t j = 0; j < count; ++j) rank += unsorted[j] > unsorted[i];
    keys[rank] = unsorted[i];
  }
  return count < num_best ? count : num_best;
}

RowStats merge_row(const ChunkStats* chunks, int64_t count) { return merge_chunks(chunks, count); }

}  // namespace s2t::cpu::S2T_CPU_ISA
