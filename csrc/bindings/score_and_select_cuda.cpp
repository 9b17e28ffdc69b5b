#include <tuple>

#include "bindings/score_checks.h"
#include "bindings/select_rows_device.h"

namespace s2t::bindings {
namespace {

constexpr const char* kOp = "score_and_select";

void check(const Tensor& hidden,
           const HeadArguments& head,
           const RowArguments& rows,
           const Tensor& candidate_logprobs,
           double prior_weight) {
  check_rank(kOp, "hidden", hidden, 3, "[batch, k, hidden_size]");
  check_head(kOp, hidden, head);
  check_rows(kOp, rows);
  check_shape(kOp, "ids", rows.ids, {hidden.size(0), hidden.size(1)}, "[batch, k]");
  check_device(kOp, "ids", rows.ids, hidden, "hidden");
  check_dtype(kOp, "candidate_logprobs", candidate_logprobs, {Dtype::Float});
  check_shape(kOp, "candidate_logprobs", candidate_logprobs, {hidden.size(0), hidden.size(1)},
              "[batch, k]");
  check_device(kOp, "candidate_logprobs", candidate_logprobs, hidden, "hidden");
  check_finite(kOp, "prior_weight", prior_weight);
}

std::tuple<Tensor, Tensor, Tensor> score_and_select_device(const Tensor& hidden,
                                                           const Tensor& rows,
                                                           const std::optional<Tensor>& bias,
                                                           const Tensor& bin_values,
                                                           double bin_temperature,
                                                           double logit_scale,
                                                           std::optional<double> softcap,
                                                           const Tensor& ids,
                                                           const Tensor& candidate_logprobs,
                                                           double prior_weight,
                                                           const Tensor& triggered,
                                                           const Tensor& default_token,
                                                           const Tensor& finished,
                                                           int64_t pad_id,
                                                           double score_temperature,
                                                           const Tensor& seed,
                                                           const Tensor& position) {
  const HeadArguments head_arguments = {rows,        bias,   bin_values, bin_temperature,
                                        logit_scale, softcap};
  const RowArguments row_arguments = {ids,    triggered,         default_token, finished,
                                      pad_id, score_temperature, seed,          position};
  check(hidden, head_arguments, row_arguments, candidate_logprobs, prior_weight);
  DeviceCall call(kOp, hidden);
  const HeadTensors head(head_arguments);
  call.reads(head.rows, "rows");
  call.reads(head.bin_values, "bin_values");
  if (head.bias) call.reads(*head.bias, "bias");
  const RowTensors choice(row_arguments);
  use_rows(call, choice, score_temperature);
  const Tensor states = call.reads(with_unit_last_stride(hidden), "hidden");
  const Tensor logprobs = call.reads(as_contiguous(candidate_logprobs), "candidate_logprobs");
  const Tensor scores = call.result({ids.size(0), ids.size(1)}, Dtype::Float, "scores");

  ScoreAndSelectParams params = {};
  params.head = make_head(head, head_arguments);
  params.hidden = states.const_data_ptr();
  params.hidden_type = scalar_type(states);
  params.hidden_row_stride = states.stride(0);
  params.hidden_slot_stride = states.stride(1);
  params.candidate_logprobs = data<float>(logprobs);
  params.prior_weight = static_cast<float>(prior_weight);
  params.scores = mutable_data<float>(scores);
  params.select = make_select_params(choice, row_arguments, params.scores);
  call.finish(cuda::launch_score_and_select(params, call.stream()));
  return {choice.token, choice.slot, scores};
}

}  // namespace
}  // namespace s2t::bindings

STABLE_TORCH_LIBRARY_IMPL(S2T_DEVICE_NAMESPACE, S2T_DEVICE_KEY, m) {
  m.impl("score_and_select", TORCH_BOX(&s2t::bindings::score_and_select_device));
}
