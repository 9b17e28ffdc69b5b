#include <tuple>

#include "bindings/logits_checks.h"
#include "bindings/parallel_cpu.h"
#include "cpu/sample_token.h"

namespace s2t::bindings {
namespace {

constexpr const char* kOp = "sample_token";

std::tuple<Tensor, Tensor> sample_token_cpu(const Tensor& logits,
                                            const Tensor& temperature,
                                            const Tensor& top_k,
                                            const Tensor& top_p,
                                            const Tensor& min_p,
                                            const Tensor& seed,
                                            const Tensor& position,
                                            const std::optional<Tensor>& blocked_ids) {
  check_logits(kOp, "logits", logits);
  check_row_argument(kOp, "temperature", temperature, Dtype::Float, logits);
  check_row_argument(kOp, "top_k", top_k, Dtype::Long, logits);
  check_row_argument(kOp, "top_p", top_p, Dtype::Float, logits);
  check_row_argument(kOp, "min_p", min_p, Dtype::Float, logits);
  check_row_argument(kOp, "seed", seed, Dtype::Long, logits);
  check_row_argument(kOp, "position", position, Dtype::Long, logits);
  check_blocked_ids(kOp, blocked_ids, logits);

  const Tensor rows = with_unit_last_stride(logits);
  const Tensor temperatures = as_contiguous(temperature), top_ks = as_contiguous(top_k);
  const Tensor top_ps = as_contiguous(top_p), min_ps = as_contiguous(min_p);
  const Tensor seeds = as_contiguous(seed), positions = as_contiguous(position);
  const std::vector<int64_t> blocked = values_on_cpu(blocked_ids);
  const Tensor token = new_tensor({rows.size(0)}, Dtype::Long, rows);
  const Tensor logprob = new_tensor({rows.size(0)}, Dtype::Float, rows);

  SampleTokenParams params = {};
  params.logits = rows.const_data_ptr();
  params.logits_type = scalar_type(rows);
  params.batch = rows.size(0);
  params.vocab = rows.size(1);
  params.row_stride = rows.stride(0);
  params.temperature = data<float>(temperatures);
  params.top_k = data<int64_t>(top_ks);
  params.top_p = data<float>(top_ps);
  params.min_p = data<float>(min_ps);
  params.seed = data<int64_t>(seeds);
  params.position = data<int64_t>(positions);
  params.blocked_ids = blocked.data();
  params.num_blocked = static_cast<int32_t>(blocked.size());
  params.token = mutable_data<int64_t>(token);
  params.logprob = mutable_data<float>(logprob);
  cpu::sample_token(params, torch_parallel());
  return {token, logprob};
}

}  // namespace
}  // namespace s2t::bindings

STABLE_TORCH_LIBRARY_IMPL(s2t_ext, CPU, m) {
  m.impl("sample_token", TORCH_BOX(&s2t::bindings::sample_token_cpu));
}
