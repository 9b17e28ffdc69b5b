// The last block's work: one answer from what all blocks of a row published. All reads bypass the
// L1 cache, which may hold older lines.
#pragma once

#include "row_scan.cuh"

namespace s2t::cuda {

S2T_DEVICE ChunkStats load_stats(const ChunkStats* stats) {
  const auto* words = reinterpret_cast<const float*>(stats);
  return {__ldcg(words), __ldcg(words + 1), __ldcg(words + 2)};
}

// merge_chunks() of core/canonical_math.h, by one warp: chunk c belongs to lane c mod 32.
S2T_DEVICE RowStats merge_row_stats(const ChunkStats* stats, int64_t chunks) {
  float maximum = negative_infinity();
  for (int64_t c = lane_id(); c < chunks; c += kMergeLanes) {
    const float m = load_stats(stats + c).maximum;
    maximum = m > maximum ? m : maximum;
  }
  RowStats row = {warp_max(maximum), 0.0, 0.0};
  double sum = 0.0, weighted_sum = 0.0;
  if (is_finite(row.maximum))  // the same for all lanes
    for (int64_t c = lane_id(); c < chunks; c += kMergeLanes)
      add_chunk(&sum, &weighted_sum, load_stats(stats + c), row.maximum);
  row.sum = warp_tree_sum(sum);
  row.weighted_sum = warp_tree_sum(weighted_sum);
  return row;
}

// The row's `wanted` best keys, sorted, padded with kNoKey, in selection.kept. Returns whether a
// logit was NaN. All threads.
template <int kThreads>
S2T_DEVICE bool merge_row_keys(const RowWorkspace& workspace,
                               RowPart part,
                               int wanted,
                               KeySelection<kThreads>& selection) {
  static_assert(kThreads >= kPublished, "a thread takes one key of a list");
  begin_selection(selection);
  const int thread = thread_id();
  const auto* published = reinterpret_cast<const unsigned long long*>(workspace.published);
  bool nan_seen = false;
  for (int round = 0; round < part.blocks; round += kListsPerRound) {
    Key keys[kListsPerRound];
    Key best = kNoKey;
    S2T_UNROLL
    for (int i = 0; i < kListsPerRound; ++i) {
      keys[i] = kNoKey;
      if (round + i < part.blocks) {
        const int64_t list = part.row * part.blocks + round + i;
        const int32_t count = __ldcg(workspace.counts + list);
        nan_seen = nan_seen || (count & kNanBit) != 0;
        if (thread < (count & ~kNanBit)) keys[i] = __ldcg(published + list * kPublished + thread);
      }
      best = keys[i] > best ? keys[i] : best;
    }
    offer_keys<kListsPerRound>(selection, wanted, best, [&](int i) { return keys[i]; });
  }
  finish_selection(selection, wanted);
  return nan_seen;
}

// support_entropy() of core/propose_candidates.h, by one warp.
S2T_DEVICE float warp_support_entropy(const Key* sorted, int support) {
  const float best = key_logit(sorted[0]);
  if (!is_finite(best)) return 0.0f;
  float weight[2], weighted[2];
  S2T_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int i = lane_id() + half * kWarpSize;
    const float d = key_logit(i < support ? sorted[i] : kNoKey) - best;
    weight[half] = exp_canonical(d);
    weighted[half] = add_weighted(0.0f, weight[half], d);
  }
  const float sum = warp_tree_sum(weight[0] + weight[1]);
  const float weighted_sum = warp_tree_sum(weighted[0] + weighted[1]);
  return entropy_of_sums(sum, weighted_sum);
}

}  // namespace s2t::cuda
