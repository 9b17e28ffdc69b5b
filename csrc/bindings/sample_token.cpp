#include "core/sample_token.h"

#include <tuple>

#include "bindings/call.h"
#include "bindings/logits_arguments.h"

namespace s2t::bindings {

std::tuple<Tensor, Tensor> sample_token(const Tensor& logits,
                                        const Tensor& temperature,
                                        const Tensor& top_k,
                                        const Tensor& top_p,
                                        const Tensor& min_p,
                                        const Tensor& seed,
                                        const Tensor& position,
                                        const std::optional<Tensor>& blocked_ids) {
  constexpr const char* kOp = "sample_token";
  check_logits(kOp, "logits", logits);
  check_row_argument(kOp, "temperature", temperature, Dtype::Float, logits);
  check_row_argument(kOp, "top_k", top_k, Dtype::Long, logits);
  check_row_argument(kOp, "top_p", top_p, Dtype::Float, logits);
  check_row_argument(kOp, "min_p", min_p, Dtype::Float, logits);
  check_row_argument(kOp, "seed", seed, Dtype::Long, logits);
  check_row_argument(kOp, "position", position, Dtype::Long, logits);
  check_blocked_ids(kOp, blocked_ids, logits);

  Call call(kOp, logits);
  const Tensor rows = call.rows(logits, "logits");
  const Tensor token = call.result({rows.size(0)}, Dtype::Long, "token");
  const Tensor logprob = call.result({rows.size(0)}, Dtype::Float, "logprob");

  SampleTokenParams params = {};
  set_logits(params, rows);
  set_blocked_ids(params, call, blocked_ids);
  params.temperature = call.values<float>(temperature, "temperature");
  params.top_k = call.values<int64_t>(top_k, "top_k");
  params.top_p = call.values<float>(top_p, "top_p");
  params.min_p = call.values<float>(min_p, "min_p");
  params.seed = call.values<int64_t>(seed, "seed");
  params.position = call.values<int64_t>(position, "position");
  params.token = mutable_data<int64_t>(token);
  params.logprob = mutable_data<float>(logprob);
  call.run(params);
  return {token, logprob};
}

}  // namespace s2t::bindings

S2T_REGISTER(sample_token)
