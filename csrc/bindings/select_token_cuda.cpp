#include <tuple>

#include "bindings/select_rows_device.h"

namespace s2t::bindings {
namespace {

constexpr const char* kOp = "select_token";

std::tuple<Tensor, Tensor> select_token_device(const Tensor& ids,
                                               const Tensor& scores,
                                               const Tensor& triggered,
                                               const Tensor& default_token,
                                               const Tensor& finished,
                                               int64_t pad_id,
                                               double score_temperature,
                                               const Tensor& seed,
                                               const Tensor& position) {
  check_dtype(kOp, "scores", scores, {Dtype::Float});
  const RowArguments arguments = {ids,    triggered,         default_token, finished,
                                  pad_id, score_temperature, seed,          position};
  check_rows(kOp, arguments);
  check_shape(kOp, "scores", scores, {ids.size(0), ids.size(1)}, "[batch, k]");
  check_device(kOp, "scores", scores, ids, "ids");

  DeviceCall call(kOp, ids);
  const Tensor contiguous_scores = call.reads(as_contiguous(scores), "scores");
  const RowTensors rows(arguments);
  use_rows(call, rows, score_temperature);
  const SelectTokenParams params =
      make_select_params(rows, arguments, data<float>(contiguous_scores));
  call.finish(cuda::launch_select_token(params, call.stream()));
  return {rows.token, rows.slot};
}

}  // namespace
}  // namespace s2t::bindings

STABLE_TORCH_LIBRARY_IMPL(S2T_DEVICE_NAMESPACE, S2T_DEVICE_KEY, m) {
  m.impl("select_token", TORCH_BOX(&s2t::bindings::select_token_device));
}
