#pragma once

// The rows of a choice as operators take them: checks, and tensors -> SelectTokenParams.

#include "bindings/checks.h"
#include "core/select_token.h"

namespace s2t::bindings {

struct RowArguments {
  const Tensor& ids;
  const Tensor& triggered;
  const Tensor& default_token;
  const Tensor& finished;
  int64_t pad_id;
  double score_temperature;
  const Tensor& seed;      // read only if score_temperature > 0
  const Tensor& position;  // likewise
};

inline void check_row_values(
    const char* op, const char* argument, const Tensor& tensor, Dtype dtype, const Tensor& ids) {
  check_dtype(op, argument, tensor, {dtype});
  check_shape(op, argument, tensor, {ids.size(0)}, "[batch]");
  check_device(op, argument, tensor, ids, "ids");
}

inline void check_rows(const char* op, const RowArguments& rows) {
  check_rank(op, "ids", rows.ids, 2, "[batch, k]");
  check_dtype(op, "ids", rows.ids, {Dtype::Long});
  const int64_t k = rows.ids.size(1);
  if (k < 1 || k > kMaxCandidates) {
    fail(op, "ids", "have 1 to " + std::to_string(kMaxCandidates) + " columns", std::to_string(k));
  }
  check_not_negative(op, "score_temperature", rows.score_temperature);
  check_row_values(op, "triggered", rows.triggered, Dtype::Bool, rows.ids);
  check_row_values(op, "default_token", rows.default_token, Dtype::Long, rows.ids);
  check_row_values(op, "finished", rows.finished, Dtype::Bool, rows.ids);
  if (rows.score_temperature > 0) {
    check_row_values(op, "seed", rows.seed, Dtype::Long, rows.ids);
    check_row_values(op, "position", rows.position, Dtype::Long, rows.ids);
  }
}

// All but the scores and the results.
template <class Call>
SelectTokenParams make_select_params(Call& call, const RowArguments& rows) {
  SelectTokenParams params = {};
  params.ids = call.template values<int64_t>(rows.ids, "ids");
  params.triggered = call.template values<bool>(rows.triggered, "triggered");
  params.default_token = call.template values<int64_t>(rows.default_token, "default_token");
  params.finished = call.template values<bool>(rows.finished, "finished");
  if (rows.score_temperature > 0) {
    params.seed = call.template values<int64_t>(rows.seed, "seed");
    params.position = call.template values<int64_t>(rows.position, "position");
  }
  params.batch = rows.ids.size(0);
  params.k = static_cast<int32_t>(rows.ids.size(1));
  params.pad_id = rows.pad_id;
  params.score_temperature = static_cast<float>(rows.score_temperature);
  return params;
}

}  // namespace s2t::bindings
