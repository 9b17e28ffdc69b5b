#pragma once

// The rows of a choice as operators take them: checks, and tensors -> SelectTokenParams.

#include <cmath>

#include "bindings/checks.h"
#include "bindings/number_text.h"
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
  if (!std::isfinite(rows.score_temperature) || rows.score_temperature < 0) {
    fail(op, "score_temperature", "be at least 0 and finite", number_text(rows.score_temperature));
  }
  check_row_values(op, "triggered", rows.triggered, Dtype::Bool, rows.ids);
  check_row_values(op, "default_token", rows.default_token, Dtype::Long, rows.ids);
  check_row_values(op, "finished", rows.finished, Dtype::Bool, rows.ids);
  if (rows.score_temperature > 0) {
    check_row_values(op, "seed", rows.seed, Dtype::Long, rows.ids);
    check_row_values(op, "position", rows.position, Dtype::Long, rows.ids);
  }
}

// Checked rows, contiguous, and the results; they keep what the params point to.
struct RowTensors {
  explicit RowTensors(const RowArguments& rows)
      : ids(as_contiguous(rows.ids)),
        triggered(as_contiguous(rows.triggered)),
        default_token(as_contiguous(rows.default_token)),
        finished(as_contiguous(rows.finished)),
        seed(as_contiguous(rows.seed)),
        position(as_contiguous(rows.position)),
        token(new_tensor({ids.size(0)}, Dtype::Long, ids)),
        slot(new_tensor({ids.size(0)}, Dtype::Long, ids)) {}

  Tensor ids, triggered, default_token, finished, seed, position;
  Tensor token, slot;
};

// `scores` is contiguous [batch, k].
inline SelectTokenParams make_select_params(const RowTensors& tensors,
                                            const RowArguments& rows,
                                            const float* scores) {
  SelectTokenParams params = {};
  params.ids = data<int64_t>(tensors.ids);
  params.scores = scores;
  params.triggered = data<bool>(tensors.triggered);
  params.default_token = data<int64_t>(tensors.default_token);
  params.finished = data<bool>(tensors.finished);
  params.seed = data<int64_t>(tensors.seed);
  params.position = data<int64_t>(tensors.position);
  params.batch = tensors.ids.size(0);
  params.k = static_cast<int32_t>(tensors.ids.size(1));
  params.pad_id = rows.pad_id;
  params.score_temperature = static_cast<float>(rows.score_temperature);
  params.token = mutable_data<int64_t>(tensors.token);
  params.slot = mutable_data<int64_t>(tensors.slot);
  return params;
}

}  // namespace s2t::bindings
