#pragma once

// Logits [batch, vocab] as operators take them: checks, and tensors -> params.

#include <optional>

#include "bindings/checks.h"
#include "core/propose_candidates.h"

namespace s2t::bindings {

inline void check_logits(const char* op, const char* argument, const Tensor& logits) {
  check_rank(op, argument, logits, 2, "[batch, vocab]");
  check_dtype(op, argument, logits, logit_dtypes());
  const int64_t vocab = logits.size(1);
  if (vocab < 1) fail(op, argument, "have at least one column", std::to_string(vocab));
  if (vocab > INT32_MAX) {  // an id is half of a 64-bit key
    fail(op, argument, "have less than 2^31 columns", std::to_string(vocab));
  }
}

// An argument with one value a row.
inline void check_row_argument(
    const char* op, const char* argument, const Tensor& tensor, Dtype dtype, const Tensor& logits) {
  check_dtype(op, argument, tensor, {dtype});
  check_shape(op, argument, tensor, {logits.size(0)}, "[batch]");
  check_device(op, argument, tensor, logits, "logits");
}

// Shape and, on the CPU, values. Elsewhere reading values would wait for the device.
inline void check_blocked_ids(const char* op,
                              const std::optional<Tensor>& blocked_ids,
                              const Tensor& logits) {
  if (!blocked_ids) return;
  check_rank(op, "blocked_ids", *blocked_ids, 1, "[num_blocked]");
  check_dtype(op, "blocked_ids", *blocked_ids, {Dtype::Long});
  check_device(op, "blocked_ids", *blocked_ids, logits, "logits");
  const int64_t count = blocked_ids->size(0), vocab = logits.size(1);
  if (count > kMaxBlockedIds) {
    fail(op, "blocked_ids", "have at most " + std::to_string(kMaxBlockedIds) + " ids",
         std::to_string(count));
  }
  if (!blocked_ids->is_cpu()) return;
  const Tensor contiguous = as_contiguous(*blocked_ids);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t id = data<int64_t>(contiguous)[i];
    if (id < 0 || id >= vocab) {
      fail(op, "blocked_ids", "be in [0, vocab) = [0, " + std::to_string(vocab) + ")",
           std::to_string(id));
    }
  }
}

// `rows` has a last stride of 1.
template <class Params>
void set_logits(Params& params, const Tensor& rows) {
  params.logits = rows.const_data_ptr();
  params.logits_type = scalar_type(rows);
  params.batch = rows.size(0);
  params.vocab = rows.size(1);
  params.row_stride = rows.stride(0);
}

template <class Params, class Call>
void set_blocked_ids(Params& params, Call& call, const std::optional<Tensor>& blocked_ids) {
  if (!blocked_ids) return;
  params.blocked_ids = call.template values<int64_t>(*blocked_ids, "blocked_ids");
  params.num_blocked = static_cast<int32_t>(blocked_ids->size(0));
}

}  // namespace s2t::bindings
