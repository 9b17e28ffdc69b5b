// Keeps the k best tokens of every row, with log-sum-exp and the entropies that trigger a choice.
//
// Grid (blocks per row, batch). Each block reads its run of chunks once, 128 bits at a time,
// computes the canonical statistics of each chunk (a warp to a chunk) and keeps its best keys; it
// publishes both in the workspace. The block that arrives last merges what all have published and
// writes the row's results. Nobody waits for another block, so any number of blocks may be
// resident. Reads each logit once; one launch.
//
// Best first; equal logits go to the smaller id; NaN, -inf and blocked ids are no candidates.
// Limits: 1 <= k <= 64, vocab < 2^31, batch <= 65,535 a launch (the launcher splits larger ones).
#include "launch_helpers.h"
#include "launchers.h"
#include "row_merge.cuh"

namespace s2t::cuda {
namespace {

// ---- device code -------------------------------------------------------------------------------

SIMT_DEVICE RowSource source_of(const ProposeCandidatesParams& p) {
  return {p.logits, p.row_stride, p.vocab, p.blocked_ids, p.num_blocked};
}

SIMT_DEVICE void write_row(const ProposeCandidatesParams& p,
                           int64_t row,
                           const RowStats& stats,
                           const Key* sorted,
                           bool nan_seen) {
  for (int i = lane_id(); i < p.k; i += kWarpSize) {
    p.ids[row * p.k + i] = key_id(sorted[i]);
    p.candidate_logits[row * p.k + i] = key_logit(sorted[i]);
  }
  const float of_support = p.support > 0 ? warp_support_entropy(sorted, p.support) : 0.0f;
  if (lane_id() != 0) return;
  const float of_row = row_entropy(stats);
  p.logsumexp[row] = row_logsumexp(stats);
  p.full_entropy[row] = of_row;
  p.support_entropy[row] = p.support > 0 ? of_support : of_row;
  p.status[row] = propose_status(sorted, p.k, nan_seen);
}

SIMT_DEVICE void merge_and_write(const ProposeCandidatesParams& p,
                                 const RowWorkspace& workspace,
                                 RowPart part,
                                 KeySelection<kRowThreads>& selection) {
  const bool nan_seen = merge_row_keys(workspace, part, selection_size(p.k, p.support), selection);
  if (warp_id() != 0) return;
  const int64_t chunks = chunk_count(p.vocab);
  const RowStats stats = merge_row_stats(workspace.stats + part.row * chunks, chunks);
  const bool any_nan = __any_sync(kAllLanes, nan_seen) != 0;
  write_row(p, part.row, stats, selection.kept, any_nan);
}

template <class T>
SIMT_KERNEL void __launch_bounds__(kRowThreads)
    propose_candidates_kernel(ProposeCandidatesParams p, RowWorkspace workspace) {
  SIMT_SHARED(KeySelection<kRowThreads>, selection);
  SIMT_SHARED(bool, is_last);
  const RowPart part = row_part();
  scan_row_part<T>(source_of(p), part, selection_size(p.k, p.support), workspace, selection);
  if (arrives_last(workspace, part, is_last)) merge_and_write(p, workspace, part, selection);
}

// The same in two launches.
template <class T>
SIMT_KERNEL void __launch_bounds__(kRowThreads)
    propose_candidates_scan_kernel(ProposeCandidatesParams p, RowWorkspace workspace) {
  SIMT_SHARED(KeySelection<kRowThreads>, selection);
  scan_row_part<T>(source_of(p), row_part(), selection_size(p.k, p.support), workspace, selection);
}

SIMT_KERNEL void __launch_bounds__(kRowThreads)
    propose_candidates_merge_kernel(ProposeCandidatesParams p, RowWorkspace workspace, int blocks) {
  SIMT_SHARED(KeySelection<kRowThreads>, selection);
  merge_and_write(p, workspace, {static_cast<int64_t>(blockIdx.y), 0, blocks}, selection);
}

// ---- launcher ----------------------------------------------------------------------------------

template <class T>
simt::error_t launch(const ProposeCandidatesParams& p,
                     const RowWorkspace& workspace,
                     int blocks,
                     bool two_launches,
                     simt::stream_t stream) {
  const dim3 scan_grid(static_cast<unsigned>(blocks), static_cast<unsigned>(p.batch));
  if (!two_launches)
    return simt::launch("propose_candidates", propose_candidates_kernel<T>, scan_grid,
                        dim3(kRowThreads), 0, stream, p, workspace);
  const simt::error_t status =
      simt::launch("propose_candidates_scan", propose_candidates_scan_kernel<T>, scan_grid,
                   dim3(kRowThreads), 0, stream, p, workspace);
  if (status != simt::kSuccess) return status;
  return simt::launch("propose_candidates_merge", propose_candidates_merge_kernel,
                      dim3(1, static_cast<unsigned>(p.batch)), dim3(kRowThreads), 0, stream, p,
                      workspace, blocks);
}

}  // namespace

simt::error_t launch_propose_candidates(const ProposeCandidatesParams& params,
                                        const RowWorkspace& workspace,
                                        const RowSplit& split,
                                        simt::stream_t stream) {
  const int blocks = resolve_blocks(split, params.batch, params.vocab);
  return for_each_slice(params.batch, [&](int64_t first, int64_t count) {
    ProposeCandidatesParams p = params;
    p.batch = count;
    p.logits = advance_elements(params.logits, params.logits_type, first * params.row_stride);
    p.ids += first * params.k;
    p.candidate_logits += first * params.k;
    p.logsumexp += first;
    p.support_entropy += first;
    p.full_entropy += first;
    p.status += first;
    const RowWorkspace slice = workspace.from_row(first, params.vocab, blocks);
    return by_type(p.logits_type, [&](auto tag) {
      return launch<typename decltype(tag)::type>(p, slice, blocks, split.two_launches, stream);
    });
  });
}

}  // namespace s2t::cuda
