#pragma once

// One call of an operator on CPU tensors (call.h).

#include <torch/csrc/stable/ops.h>

#include "bindings/checks.h"
#include "cpu/commit_candidates.h"
#include "cpu/copy_blocks.h"
#include "cpu/parallel.h"
#include "cpu/propose_candidates.h"
#include "cpu/random_uniform.h"
#include "cpu/sample_token.h"
#include "cpu/score_and_select.h"
#include "cpu/score_candidates.h"
#include "cpu/select_token.h"
#include "cpu/support_kl.h"

#define S2T_REGISTER(op) S2T_REGISTER_IN(s2t_ext, CPU, op)

namespace s2t::bindings {

class CpuCall {
 public:
  static constexpr bool kReadsValues = true;

  // `like`: where results go.
  CpuCall(const char* /*op*/, const Tensor& like) : like_(like) {}

  Tensor rows(const Tensor& tensor, const char* /*name*/) {
    return has_unit_last_stride(tensor) ? tensor : copy(tensor);
  }

  template <typename Element>
  const Element* values(const Tensor& tensor, const char* /*name*/) {
    return data<Element>(tensor.is_contiguous() ? tensor : copy(tensor));
  }

  void updates(const Tensor& /*tensor*/, const char* /*name*/) {}

  Tensor result(std::initializer_list<int64_t> shape, Dtype dtype, const char* /*name*/) {
    return new_tensor(shape, dtype, like_);
  }

  void run(const ProposeCandidatesParams& params) { cpu::propose_candidates(params, threads()); }
  void run(const ScoreCandidatesParams& params) { cpu::score_candidates(params, threads()); }
  void run(const SelectTokenParams& params) { cpu::select_token(params); }
  void run(const ScoreAndSelectParams& params) { cpu::score_and_select(params, threads()); }
  void run(const SampleTokenParams& params) { cpu::sample_token(params, threads()); }
  void run(const CommitCandidatesParams& params) { cpu::commit_candidates(params, threads()); }
  void run(const CopyBlocksParams& params) { cpu::copy_blocks(params, threads()); }
  void run(const SupportKLParams& params) { cpu::support_kl(params, threads()); }
  void run(const RandomUniformParams& params) { cpu::random_uniform(params); }

 private:
  const Tensor& copy(const Tensor& tensor) {
    copies_.push_back(torch::stable::contiguous(tensor));
    return copies_.back();
  }

  // torch's threads.
  static cpu::Parallel threads() {
    const auto run = [](int64_t count, void* context, void (*body)(void*, int64_t, int64_t)) {
      torch::stable::parallel_for(0, count, 1,
                                  [&](int64_t begin, int64_t end) { body(context, begin, end); });
    };
    return cpu::Parallel{run, static_cast<int>(torch::stable::get_num_threads())};
  }

  const Tensor& like_;
  std::vector<Tensor> copies_;  // until the call ends
};

}  // namespace s2t::bindings
