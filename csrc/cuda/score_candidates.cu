// Scores of candidates: one block for every 16 of them (score.cuh).
#include "launchers.h"
#include "score.cuh"

namespace s2t::cuda {
namespace {

S2T_KERNEL void __launch_bounds__(kScoreThreads, kScoreBlocks)
    score_candidates_kernel(ScoreCandidatesParams p) {
  S2T_SHARED(ScoreScratch, scratch);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kScoreCandidates;
  const int64_t left = p.num_candidates - first;
  const int count = left < kScoreCandidates ? static_cast<int>(left) : kScoreCandidates;
  score_block(
      p.head, count, scratch,
      [&](int i) {
        return VectorView{element_at(p.hidden, p.hidden_type, (first + i) * p.hidden_stride),
                          p.hidden_type};
      },
      [&](int i, float score) { p.scores[first + i] = score; });
}

}  // namespace

cudaError_t launch_score_candidates(const ScoreCandidatesParams& params, cudaStream_t stream) {
  if (params.num_candidates == 0) return cudaSuccess;
  const int64_t blocks = (params.num_candidates + kScoreCandidates - 1) / kScoreCandidates;
  return launch("score_candidates", score_candidates_kernel, dim3(static_cast<unsigned>(blocks)),
                dim3(kScoreThreads), stream, params);
}

}  // namespace s2t::cuda
