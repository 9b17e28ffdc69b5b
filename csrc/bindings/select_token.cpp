#include <tuple>

#include "bindings/call.h"
#include "bindings/select_arguments.h"

namespace s2t::bindings {

std::tuple<Tensor, Tensor> select_token(const Tensor& ids,
                                        const Tensor& scores,
                                        const Tensor& triggered,
                                        const Tensor& default_token,
                                        const Tensor& finished,
                                        int64_t pad_id,
                                        double score_temperature,
                                        const Tensor& seed,
                                        const Tensor& position) {
  constexpr const char* kOp = "select_token";
  check_dtype(kOp, "scores", scores, {Dtype::Float});
  const RowArguments rows = {ids,    triggered,         default_token, finished,
                             pad_id, score_temperature, seed,          position};
  check_rows(kOp, rows);
  check_shape(kOp, "scores", scores, {ids.size(0), ids.size(1)}, "[batch, k]");
  check_device(kOp, "scores", scores, ids, "ids");

  Call call(kOp, ids);
  const Tensor token = call.result({ids.size(0)}, Dtype::Long, "token");
  const Tensor slot = call.result({ids.size(0)}, Dtype::Long, "slot");

  SelectTokenParams params = make_select_params(call, rows);
  params.scores = call.values<float>(scores, "scores");
  params.token = mutable_data<int64_t>(token);
  params.slot = mutable_data<int64_t>(slot);
  call.run(params);
  return {token, slot};
}

}  // namespace s2t::bindings

S2T_REGISTER(select_token)
