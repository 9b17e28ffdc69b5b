#include "core/score_and_select.h"

#include <tuple>

#include "bindings/call.h"
#include "bindings/score_arguments.h"
#include "bindings/select_arguments.h"

namespace s2t::bindings {

std::tuple<Tensor, Tensor, Tensor, Tensor> score_and_select(const Tensor& hidden,
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
                                                            const Tensor& position,
                                                            double override_margin) {
  constexpr const char* kOp = "score_and_select";
  const HeadArguments head = {rows, bias, bin_values, bin_temperature, logit_scale, softcap};
  const RowArguments choice = {ids,    triggered,         default_token, finished,
                               pad_id, score_temperature, seed,          position};
  check_rank(kOp, "hidden", hidden, 3, "[batch, k, hidden_size]");
  check_head(kOp, hidden, head);
  check_rows(kOp, choice);
  const int64_t batch = hidden.size(0), k = hidden.size(1);
  check_shape(kOp, "ids", ids, {batch, k}, "[batch, k]");
  check_device(kOp, "ids", ids, hidden, "hidden");
  check_dtype(kOp, "candidate_logprobs", candidate_logprobs, {Dtype::Float});
  check_shape(kOp, "candidate_logprobs", candidate_logprobs, {batch, k}, "[batch, k]");
  check_device(kOp, "candidate_logprobs", candidate_logprobs, hidden, "hidden");
  check_finite(kOp, "prior_weight", prior_weight);
  check_not_negative(kOp, "override_margin", override_margin);

  Call call(kOp, hidden);
  const Tensor states = call.rows(hidden, "hidden");
  const Tensor token = call.result({batch}, Dtype::Long, "token");
  const Tensor slot = call.result({batch}, Dtype::Long, "slot");
  const Tensor scores = call.result({batch, k}, Dtype::Float, "scores");
  const Tensor refused = call.result({batch}, Dtype::Bool, "refused");

  ScoreAndSelectParams params = {};
  params.head = make_head(call, head);
  params.hidden = states.const_data_ptr();
  params.hidden_type = scalar_type(states);
  params.hidden_row_stride = states.stride(0);
  params.hidden_slot_stride = states.stride(1);
  params.candidate_logprobs = call.values<float>(candidate_logprobs, "candidate_logprobs");
  params.prior_weight = static_cast<float>(prior_weight);
  params.scores = mutable_data<float>(scores);
  params.select = make_select_params(call, choice);
  params.select.scores = params.scores;
  params.select.override_margin = static_cast<float>(override_margin);
  params.select.token = mutable_data<int64_t>(token);
  params.select.slot = mutable_data<int64_t>(slot);
  params.select.refused = mutable_data<bool>(refused);
  call.run(params);
  return {token, slot, scores, refused};
}

}  // namespace s2t::bindings

S2T_REGISTER(score_and_select)
