#pragma once

// One call of an operator on a device (call.h): on its current stream, with scratch memory from
// torch's allocator, in the order of that stream. The build says by its include path which
// "device.h" that is: bindings/cuda or bindings/simt.

#include <vector>

#include "bindings/checks.h"
#include "cuda/launchers.h"
#include "cuda/workspace.h"
#include "device.h"

namespace s2t::bindings {

class DeviceCall {
 public:
  static constexpr bool kReadsValues = false;  // it would wait for the device

  // `like`: a tensor on the device.
  DeviceCall(const char* op, const Tensor& like) : like_(like), device_(op, like) {}

  Tensor rows(const Tensor& tensor, const char* name) {
    return keep(has_unit_last_stride(tensor) ? tensor : torch::stable::contiguous(tensor), name);
  }

  template <typename Element>
  const Element* values(const Tensor& tensor, const char* name) {
    return data<Element>(keep(as_contiguous(tensor), name));
  }

  void updates(const Tensor& tensor, const char* name) {
    device_.declare(tensor, Use::kUpdate, name);
  }

  Tensor result(std::initializer_list<int64_t> shape, Dtype dtype, const char* name) {
    const Tensor tensor = new_tensor(shape, dtype, like_);
    device_.declare(tensor, Use::kWrite, name);
    return tensor;
  }

  void run(const ProposeCandidatesParams& params) {
    if (params.batch == 0) return;
    const cuda::RowWorkspace workspace = row_workspace(params.batch, params.vocab);
    device_.check(cuda::launch_propose_candidates(params, workspace, device_.stream()));
  }

  void run(const SupportKLParams& params) {
    if (params.batch == 0) return;
    const cuda::RowWorkspace workspace = row_workspace(params.batch, params.vocab);
    device_.check(cuda::launch_support_kl(params, workspace, device_.stream()));
  }

  void run(const SampleTokenParams& params) {
    if (params.batch == 0) return;
    const int64_t sums = params.batch * cuda::kChunkSums * chunk_count(params.vocab);
    const cuda::SampleWorkspace workspace = {
        row_workspace(params.batch, params.vocab, cuda::kSampleWarps, cuda::kSampleBlocks),
        static_cast<float*>(scratch(sums * sizeof(float), "chunk sums"))};
    device_.check(cuda::launch_sample_token(params, workspace, device_.stream()));
  }

  void run(const ScoreCandidatesParams& params) {
    device_.check(cuda::launch_score_candidates(params, device_.stream()));
  }
  void run(const SelectTokenParams& params) {
    device_.check(cuda::launch_select_token(params, device_.stream()));
  }
  void run(const ScoreAndSelectParams& params) {
    device_.check(cuda::launch_score_and_select(params, device_.stream()));
  }
  void run(const CommitCandidatesParams& params) {
    device_.check(cuda::launch_commit_candidates(params, device_.stream()));
  }
  void run(const CopyBlocksParams& params) {
    device_.check(cuda::launch_copy_blocks(params, device_.stream()));
  }
  void run(const RandomUniformParams& params) {
    device_.check(cuda::launch_random_uniform(params, device_.stream()));
  }

 private:
  const Tensor& keep(const Tensor& tensor, const char* name) {
    device_.declare(tensor, Use::kRead, name);
    kept_.push_back(tensor);
    return kept_.back();
  }

  // Uninitialised memory for the duration of the call.
  void* scratch(int64_t bytes, const char* name) {
    kept_.push_back(result({bytes}, Dtype::Byte, name));
    return kept_.back().mutable_data_ptr();
  }

  cuda::RowWorkspace row_workspace(int64_t batch,
                                   int64_t vocab,
                                   int warps = cuda::kRowWarps,
                                   int resident = cuda::kResidentBlocks) {
    const int blocks = device_.blocks_per_row(batch, vocab, warps, resident);
    void* memory = scratch(cuda::row_workspace_bytes(batch, vocab, blocks).total(), "workspace");
    return cuda::row_workspace(memory, batch, vocab, blocks);
  }

  const Tensor& like_;
  Device device_;
  std::vector<Tensor> kept_;  // until the launch: copies that were made contiguous, and scratch
};

}  // namespace s2t::bindings
