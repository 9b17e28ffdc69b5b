// Keeps the k best tokens of every row, with log-sum-exp and the entropies that trigger a choice:
// one read of the logits, one launch (row_operator.cuh).
//
// Best first; equal logits go to the smaller id; NaN, -inf and blocked ids are no candidates.
// Limits: 1 <= k <= 64, vocab < 2^31.
#include "launchers.h"
#include "row_operator.cuh"

namespace s2t::cuda {
namespace {

S2T_DEVICE RowSource source_of(const ProposeCandidatesParams& p) {
  return {p.logits, p.row_stride, p.vocab, p.blocked_ids, p.num_blocked};
}

S2T_DEVICE void write_row(const ProposeCandidatesParams& p,
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

template <class T>
S2T_KERNEL void __launch_bounds__(kRowThreads)
    propose_candidates_kernel(ProposeCandidatesParams p, RowWorkspace workspace) {
  run_row_operator<T>(source_of(p), selection_size(p.k, p.support), workspace,
                      [&](int64_t row, const RowStats& stats, const Key* sorted, bool nan_seen) {
                        write_row(p, row, stats, sorted, nan_seen);
                      });
}

ProposeCandidatesParams rows_from(const ProposeCandidatesParams& params, int64_t first) {
  ProposeCandidatesParams p = params;
  p.logits = advance_elements(params.logits, params.logits_type, first * params.row_stride);
  p.ids += first * params.k;
  p.candidate_logits += first * params.k;
  p.logsumexp += first;
  p.support_entropy += first;
  p.full_entropy += first;
  p.status += first;
  return p;
}

}  // namespace

cudaError_t launch_propose_candidates(const ProposeCandidatesParams& params,
                                      const RowWorkspace& workspace,
                                      cudaStream_t stream) {
  return launch_row_operator<kRowThreads>(
      "propose_candidates", params, workspace, stream, rows_from,
      [](auto tag) { return propose_candidates_kernel<typename decltype(tag)::type>; });
}

}  // namespace s2t::cuda
