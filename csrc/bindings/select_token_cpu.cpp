#include <tuple>

#include "bindings/select_checks.h"
#include "cpu/select_token.h"

namespace s2t::bindings {
namespace {

constexpr const char* kOp = "select_token";

std::tuple<Tensor, Tensor> select_token_cpu(const Tensor& ids,
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

  const Tensor contiguous_scores = as_contiguous(scores);
  const RowTensors rows(arguments);
  cpu::select_token(make_select_params(rows, arguments, data<float>(contiguous_scores)));
  return {rows.token, rows.slot};
}

}  // namespace
}  // namespace s2t::bindings

STABLE_TORCH_LIBRARY_IMPL(s2t_ext, CPU, m) {
  m.impl("select_token", TORCH_BOX(&s2t::bindings::select_token_cpu));
}
