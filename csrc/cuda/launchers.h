// What the host can start. Every launcher only enqueues: it never waits for the device, so it may
// be captured in a CUDA graph. Params are checked by the caller; an empty batch launches nothing.
// Pointers are device pointers.
#pragma once

#include <cuda_runtime_api.h>

#include "core/commit_candidates.h"
#include "core/copy_blocks.h"
#include "core/propose_candidates.h"
#include "core/random_uniform.h"
#include "core/sample_token.h"
#include "core/score_and_select.h"
#include "core/support_kl.h"
#include "workspace.h"

namespace s2t::cuda {

cudaError_t launch_propose_candidates(const ProposeCandidatesParams& params,
                                      const RowWorkspace& workspace,
                                      cudaStream_t stream);
cudaError_t launch_support_kl(const SupportKLParams& params,
                              const RowWorkspace& workspace,
                              cudaStream_t stream);

cudaError_t launch_sample_token(const SampleTokenParams& params,
                                const SampleWorkspace& workspace,
                                cudaStream_t stream);

cudaError_t launch_score_candidates(const ScoreCandidatesParams& params, cudaStream_t stream);
cudaError_t launch_random_uniform(const RandomUniformParams& params, cudaStream_t stream);
cudaError_t launch_select_token(const SelectTokenParams& params, cudaStream_t stream);
cudaError_t launch_score_and_select(const ScoreAndSelectParams& params, cudaStream_t stream);

// params.buffers is host memory; it is read before the call returns.
cudaError_t launch_commit_candidates(const CommitCandidatesParams& params, cudaStream_t stream);

// params.caches is host memory, read before the call returns. No block may be written that another
// pair reads or writes.
cudaError_t launch_copy_blocks(const CopyBlocksParams& params, cudaStream_t stream);

}  // namespace s2t::cuda
