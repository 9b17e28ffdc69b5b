#include "bindings/parallel_cpu.h"
#include "bindings/score_checks.h"
#include "cpu/score_candidates.h"

namespace s2t::bindings {
namespace {

constexpr const char* kOp = "score_candidates";

Tensor score_candidates_cpu(const Tensor& hidden,
                            const Tensor& rows,
                            const std::optional<Tensor>& bias,
                            const Tensor& bin_values,
                            double bin_temperature,
                            double logit_scale,
                            std::optional<double> softcap) {
  check_rank(kOp, "hidden", hidden, 2, "[num_candidates, hidden_size]");
  const HeadArguments arguments = {rows, bias, bin_values, bin_temperature, logit_scale, softcap};
  check_head(kOp, hidden, arguments);
  const HeadTensors head(arguments);
  const Tensor states = with_unit_last_stride(hidden);
  const Tensor scores = new_tensor({states.size(0)}, Dtype::Float, states);

  ScoreCandidatesParams params = {};
  params.head = make_head(head, arguments);
  params.hidden = states.const_data_ptr();
  params.hidden_type = scalar_type(states);
  params.hidden_stride = states.stride(0);
  params.num_candidates = states.size(0);
  params.scores = mutable_data<float>(scores);
  cpu::score_candidates(params, torch_parallel());
  return scores;
}

}  // namespace
}  // namespace s2t::bindings

STABLE_TORCH_LIBRARY_IMPL(s2t_ext, CPU, m) {
  m.impl("score_candidates", TORCH_BOX(&s2t::bindings::score_candidates_cpu));
}
