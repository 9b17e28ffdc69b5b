// Warp-wide reductions in the canonical order, and what a warp does with one chunk of a row.
#pragma once

#include "core/canonical_math.h"
#include "core/propose_candidates.h"
#include "vector_load.cuh"

namespace s2t::cuda {

S2T_DEVICE int thread_id() { return static_cast<int>(threadIdx.x); }
S2T_DEVICE int lane_id() { return thread_id() % kWarpSize; }
S2T_DEVICE int warp_id() { return thread_id() / kWarpSize; }

// Tree of distance 16, 8, 4, 2, 1: every lane gets the sum. Addition commutes bit for bit, so the
// butterfly equals the tree of csrc/README.md.
template <class Real>
S2T_DEVICE Real warp_tree_sum(Real value) {
  S2T_UNROLL
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2)
    value = value + __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}

// Not for NaN. -0 may come back as +0.
S2T_DEVICE float warp_max(float value) {
  return value_of_ordered_bits(__reduce_max_sync(kAllLanes, ordered_bits(value)));
}

S2T_DEVICE Key warp_max(Key key) {
  const auto high = static_cast<unsigned>(key >> 32), low = static_cast<unsigned>(key);
  const unsigned best_high = __reduce_max_sync(kAllLanes, high);
  const unsigned best_low = __reduce_max_sync(kAllLanes, high == best_high ? low : 0u);
  return static_cast<Key>(best_high) << 32 | best_low;
}

// The largest of a lane's logits, NaN left out; -inf if there is none. Of -0 and +0 either.
S2T_DEVICE float held_max(const float (&x)[kHeldLogits]) {
  float best = negative_infinity();
  S2T_UNROLL
  for (int i = 0; i < kHeldLogits; ++i) best = fmaxf(x[i], best);  // one instruction
  return best;
}

S2T_DEVICE bool has_nan(const float (&x)[kHeldLogits]) {
  bool found = false;
  S2T_UNROLL
  for (int i = 0; i < kHeldLogits; i += 2)  // the test of a pair is one instruction
    found |= !((x[i] < x[i + 1]) | (x[i] >= x[i + 1]));
  return found;
}

// Key of the lane's best logit: the first place of its maximum.
S2T_DEVICE Key held_best(const float (&x)[kHeldLogits], float maximum, int64_t base, int lane) {
  int first = 0;
  S2T_UNROLL
  for (int i = kHeldLogits - 1; i >= 0; --i) first = x[i] == maximum ? i : first;
  return make_key(maximum, static_cast<uint32_t>(held_id(base, lane, first)));
}

// Canonical sum over the chunk from a lane's 8 partials, which it overwrites; every lane gets it.
S2T_DEVICE float chunk_tree(float (&partials)[kGroup]) {
  S2T_UNROLL
  for (int e = 0; e < kGroup / 2; ++e) partials[e] = partials[e] + partials[e + kGroup / 2];
  S2T_UNROLL
  for (int e = 0; e < kGroup / 4; ++e) partials[e] = partials[e] + partials[e + kGroup / 4];
  return warp_tree_sum(partials[0] + partials[1]);
}

// The same of one weight per logit; weight(i) is that of the lane's i-th.
template <class Weight>
S2T_DEVICE float chunk_sum(Weight weight) {
  float partials[kGroup];
  S2T_UNROLL
  for (int e = 0; e < kGroup; ++e) {
    partials[e] = 0.0f;
    S2T_UNROLL
    for (int j = 0; j < kGroupsPerLane; ++j) partials[e] = partials[e] + weight(kGroup * j + e);
  }
  return chunk_tree(partials);
}

// chunk_stats() of core/canonical_math.h, by a warp.
S2T_DEVICE ChunkStats warp_chunk_stats(const float (&x)[kHeldLogits], float lane_maximum) {
  const float maximum = warp_max(lane_maximum);
  float sums[kGroup], weighted_sums[kGroup];
  S2T_UNROLL
  for (int e = 0; e < kGroup; ++e) {
    sums[e] = weighted_sums[e] = 0.0f;
    S2T_UNROLL
    for (int j = 0; j < kGroupsPerLane; ++j) {
      const float d = at_least_cutoff(x[kGroup * j + e] - maximum);
      const float weight = exp_in_range(d);
      sums[e] = sums[e] + weight;
      weighted_sums[e] = fma_canonical(weight, d, weighted_sums[e]);
    }
  }
  return finished_chunk(maximum, chunk_tree(sums), chunk_tree(weighted_sums));
}

// The blocked ids, two to a lane; -1 is none. vocab < 2^31, so half the registers of an id do.
struct BlockedIds {
  int32_t low, high;
};

S2T_DEVICE int32_t blocked_id(const int64_t* ids, int count, int i) {
  const int64_t id = i < count ? ids[i] : -1;
  return id == static_cast<int32_t>(id) ? static_cast<int32_t>(id) : -1;
}

S2T_DEVICE BlockedIds load_blocked_ids(const int64_t* ids, int count, int lane) {
  static_assert(kMaxBlockedIds == 2 * kWarpSize, "two to a lane");
  return {blocked_id(ids, count, lane), blocked_id(ids, count, lane + kWarpSize)};
}

S2T_DEVICE void block_one(int32_t id, int64_t base, int lane, float (&x)[kHeldLogits]) {
  const auto place = static_cast<int>(id - base);
  const bool is_mine = place / kGroup % kWarpSize == lane;
  const int held = place / (kGroup * kWarpSize) * kGroup + place % kGroup;
  S2T_UNROLL
  for (int i = 0; i < kHeldLogits; ++i) x[i] = is_mine && i == held ? negative_infinity() : x[i];
}

// -inf in the places of the blocked ids of this chunk: before any maximum is taken.
S2T_DEVICE void apply_blocked_ids(BlockedIds blocked,
                                  int64_t base,
                                  int lane,
                                  float (&x)[kHeldLogits]) {
  const auto is_here = [&](int32_t id) { return id >= base && id < base + kChunkSize; };
  unsigned low = __ballot_sync(kAllLanes, is_here(blocked.low));
  unsigned high = __ballot_sync(kAllLanes, is_here(blocked.high));
  for (; low != 0; low &= low - 1)
    block_one(__shfl_sync(kAllLanes, blocked.low, __ffs(static_cast<int>(low)) - 1), base, lane, x);
  for (; high != 0; high &= high - 1)
    block_one(__shfl_sync(kAllLanes, blocked.high, __ffs(static_cast<int>(high)) - 1), base, lane,
              x);
}

}  // namespace s2t::cuda
