// The decision of one step in one launch: a block scores the candidates of its row, 16 at a time
// (score.cuh), and its first warp selects (select.cuh). Rows that make no choice, and slots that
// take part in none, read no hidden state.
#include "launchers.h"
#include "score.cuh"
#include "select.cuh"

namespace s2t::cuda {
namespace {

S2T_KERNEL void __launch_bounds__(kScoreThreads, kScoreBlocks)
    score_and_select_kernel(ScoreAndSelectParams p) {
  S2T_SHARED(ScoreScratch, scratch);
  const int64_t row = blockIdx.x;
  const SelectTokenParams& select = p.select;
  float* scores = p.scores + row * select.k;
  const bool row_chooses =
      select.triggered[row] && !select.finished[row];  // the same for the whole block
  for (int slot = thread_id(); slot < select.k; slot += kScoreThreads)
    if (!is_scored(select, row, slot)) scores[slot] = negative_infinity();
  for (int first = 0; row_chooses && first < select.k; first += kScoreCandidates) {
    const auto hidden_of = [&](int i) {
      const int slot = first + i;
      if (!is_scored(select, row, slot)) return VectorView{nullptr, p.hidden_type};
      const int64_t offset = row * p.hidden_row_stride + slot * p.hidden_slot_stride;
      return VectorView{element_at(p.hidden, p.hidden_type, offset), p.hidden_type};
    };
    score_block(p.head, min(select.k - first, kScoreCandidates), scratch, hidden_of,
                [&](int i, float score) {
                  const int64_t n = row * select.k + first + i;
                  p.scores[n] = total_score(score, p.prior_weight, p.candidate_logprobs + n);
                });
  }
  __syncthreads();
  if (warp_id() == 0) warp_select_row(select, row);
}

}  // namespace

cudaError_t launch_score_and_select(const ScoreAndSelectParams& params, cudaStream_t stream) {
  if (params.select.batch == 0) return cudaSuccess;
  return launch("score_and_select", score_and_select_kernel,
                dim3(static_cast<unsigned>(params.select.batch)), dim3(kScoreThreads), stream,
                params);
}

}  // namespace s2t::cuda
