#pragma once

// The score head as operators take it: checks, and tensors -> ScoreHead.

#include <optional>

#include "bindings/checks.h"
#include "core/score_candidates.h"

namespace s2t::bindings {

struct HeadArguments {
  const Tensor& rows;
  const std::optional<Tensor>& bias;
  const Tensor& bin_values;
  double bin_temperature;
  double logit_scale;
  std::optional<double> softcap;
};

// `hidden` has any rank; its last dimension is the hidden size.
inline void check_head(const char* op, const Tensor& hidden, const HeadArguments& head) {
  check_dtype(op, "hidden", hidden, logit_dtypes());
  check_rank(op, "rows", head.rows, 2, "[num_bins, hidden_size]");
  check_dtype(op, "rows", head.rows, logit_dtypes());
  check_device(op, "rows", head.rows, hidden, "hidden");
  const int64_t num_bins = head.rows.size(0), hidden_size = hidden.size(hidden.dim() - 1);
  if (num_bins < 1 || num_bins > kMaxBins) {
    fail(op, "rows", "have 1 to " + std::to_string(kMaxBins) + " rows", std::to_string(num_bins));
  }
  check_shape(op, "rows", head.rows, {num_bins, hidden_size}, "[num_bins, hidden_size]");
  if (head.bias) {
    check_dtype(op, "bias", *head.bias, logit_dtypes());
    check_device(op, "bias", *head.bias, hidden, "hidden");
    check_shape(op, "bias", *head.bias, {num_bins}, "[num_bins]");
  }
  check_dtype(op, "bin_values", head.bin_values, {Dtype::Float});
  check_device(op, "bin_values", head.bin_values, hidden, "hidden");
  check_shape(op, "bin_values", head.bin_values, {num_bins}, "[num_bins]");
  check_positive(op, "bin_temperature", head.bin_temperature);
  check_finite(op, "logit_scale", head.logit_scale);
  if (head.softcap) check_positive(op, "softcap", *head.softcap);
}

// 1 / value as float, the largest float if that overflows: 0 times infinity is no logit.
inline float inverse_of(double value) {
  constexpr double kLargest = 3.4028234663852886e38;
  const double inverse = 1.0 / value;
  return static_cast<float>(inverse < kLargest ? inverse : kLargest);
}

template <class Call>
ScoreHead make_head(Call& call, const HeadArguments& arguments) {
  const Tensor rows = call.rows(arguments.rows, "rows");
  ScoreHead head = {};
  head.rows = rows.const_data_ptr();
  head.rows_type = scalar_type(rows);
  head.row_stride = rows.stride(0);
  head.hidden_size = rows.size(1);
  head.num_bins = static_cast<int32_t>(rows.size(0));
  if (arguments.bias) {
    head.bias = call.template values<void>(*arguments.bias, "bias");
    head.bias_type = scalar_type(*arguments.bias);
  }
  head.bin_values = call.template values<float>(arguments.bin_values, "bin_values");
  head.inverse_bin_temperature = inverse_of(arguments.bin_temperature);
  head.logit_scale = static_cast<float>(arguments.logit_scale);
  if (arguments.softcap) {
    head.softcap = static_cast<float>(*arguments.softcap);
    head.inverse_softcap = inverse_of(*arguments.softcap);
  }
  return head;
}

}  // namespace s2t::bindings
