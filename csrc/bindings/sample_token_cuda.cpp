#include <tuple>

#include "bindings/device_call.h"
#include "bindings/logits_checks.h"

namespace s2t::bindings {
namespace {

constexpr const char* kOp = "sample_token";

std::tuple<Tensor, Tensor> sample_token_device(const Tensor& logits,
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

  DeviceCall call(kOp, logits);
  const Tensor rows = call.reads(with_unit_last_stride(logits), "logits");
  const int64_t batch = rows.size(0), vocab = rows.size(1);
  const Tensor temperatures = call.reads(as_contiguous(temperature), "temperature");
  const Tensor top_ks = call.reads(as_contiguous(top_k), "top_k");
  const Tensor top_ps = call.reads(as_contiguous(top_p), "top_p");
  const Tensor min_ps = call.reads(as_contiguous(min_p), "min_p");
  const Tensor seeds = call.reads(as_contiguous(seed), "seed");
  const Tensor positions = call.reads(as_contiguous(position), "position");
  const Tensor token = call.result({batch}, Dtype::Long, "token");
  const Tensor logprob = call.result({batch}, Dtype::Float, "logprob");

  SampleTokenParams params = {};
  if (blocked_ids) {
    const Tensor blocked = call.reads(as_contiguous(*blocked_ids), "blocked_ids");
    params.blocked_ids = data<int64_t>(blocked);
    params.num_blocked = static_cast<int32_t>(blocked.size(0));
  }
  params.logits = rows.const_data_ptr();
  params.logits_type = scalar_type(rows);
  params.batch = batch;
  params.vocab = vocab;
  params.row_stride = rows.stride(0);
  params.temperature = data<float>(temperatures);
  params.top_k = data<int64_t>(top_ks);
  params.top_p = data<float>(top_ps);
  params.min_p = data<float>(min_ps);
  params.seed = data<int64_t>(seeds);
  params.position = data<int64_t>(positions);
  params.token = mutable_data<int64_t>(token);
  params.logprob = mutable_data<float>(logprob);
  const int64_t chunks = batch * chunk_count(vocab);
  auto* stats = static_cast<ChunkStats*>(call.scratch(chunks * sizeof(ChunkStats), "chunk stats"));
  auto* sums = static_cast<float*>(call.scratch(chunks * sizeof(float), "kept sums"));
  call.finish(cuda::launch_sample_token(params, stats, sums, call.stream()));
  return {token, logprob};
}

}  // namespace
}  // namespace s2t::bindings

STABLE_TORCH_LIBRARY_IMPL(S2T_DEVICE_NAMESPACE, S2T_DEVICE_KEY, m) {
  m.impl("sample_token", TORCH_BOX(&s2t::bindings::sample_token_device));
}
