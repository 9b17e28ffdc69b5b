#include "bindings/device_call.h"
#include "bindings/score_checks.h"

namespace s2t::bindings {
namespace {

constexpr const char* kOp = "score_candidates";

Tensor score_candidates_device(const Tensor& hidden,
                               const Tensor& rows,
                               const std::optional<Tensor>& bias,
                               const Tensor& bin_values,
                               double bin_temperature,
                               double logit_scale,
                               std::optional<double> softcap) {
  check_rank(kOp, "hidden", hidden, 2, "[num_candidates, hidden_size]");
  const HeadArguments arguments = {rows, bias, bin_values, bin_temperature, logit_scale, softcap};
  check_head(kOp, hidden, arguments);
  DeviceCall call(kOp, hidden);
  const HeadTensors head(arguments);
  call.reads(head.rows, "rows");
  call.reads(head.bin_values, "bin_values");
  if (head.bias) call.reads(*head.bias, "bias");
  const Tensor states = call.reads(with_unit_last_stride(hidden), "hidden");
  const Tensor scores = call.result({states.size(0)}, Dtype::Float, "scores");

  ScoreCandidatesParams params = {};
  params.head = make_head(head, arguments);
  params.hidden = states.const_data_ptr();
  params.hidden_type = scalar_type(states);
  params.hidden_stride = states.stride(0);
  params.num_candidates = states.size(0);
  params.scores = mutable_data<float>(scores);
  call.finish(cuda::launch_score_candidates(params, call.stream()));
  return scores;
}

}  // namespace
}  // namespace s2t::bindings

STABLE_TORCH_LIBRARY_IMPL(S2T_DEVICE_NAMESPACE, S2T_DEVICE_KEY, m) {
  m.impl("score_candidates", TORCH_BOX(&s2t::bindings::score_candidates_device));
}
