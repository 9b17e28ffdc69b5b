#include "bindings/call.h"
#include "bindings/score_arguments.h"

namespace s2t::bindings {

Tensor score_candidates(const Tensor& hidden,
                        const Tensor& rows,
                        const std::optional<Tensor>& bias,
                        const Tensor& bin_values,
                        double bin_temperature,
                        double logit_scale,
                        std::optional<double> softcap) {
  constexpr const char* kOp = "score_candidates";
  check_rank(kOp, "hidden", hidden, 2, "[num_candidates, hidden_size]");
  const HeadArguments head = {rows, bias, bin_values, bin_temperature, logit_scale, softcap};
  check_head(kOp, hidden, head);

  Call call(kOp, hidden);
  const Tensor states = call.rows(hidden, "hidden");
  const Tensor scores = call.result({states.size(0)}, Dtype::Float, "scores");

  ScoreCandidatesParams params = {};
  params.head = make_head(call, head);
  params.hidden = states.const_data_ptr();
  params.hidden_type = scalar_type(states);
  params.hidden_stride = states.stride(0);
  params.num_candidates = states.size(0);
  params.scores = mutable_data<float>(scores);
  call.run(params);
  return scores;
}

}  // namespace s2t::bindings

S2T_REGISTER(score_candidates)
