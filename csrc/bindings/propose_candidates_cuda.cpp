#include <tuple>

#include "bindings/device_call.h"
#include "bindings/propose_candidates_checks.h"

namespace s2t::bindings {
namespace {

constexpr const char* kOp = "propose_candidates";

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> propose_candidates_device(
    const Tensor& logits, int64_t k, int64_t support, const std::optional<Tensor>& blocked_ids) {
  check_propose_candidates(kOp, logits, k, support, blocked_ids);
  DeviceCall call(kOp, logits);
  const Tensor rows = call.reads(with_unit_last_stride(logits), "logits");
  const int64_t batch = rows.size(0);
  const Tensor ids = call.result({batch, k}, Dtype::Long, "ids");
  const Tensor candidate_logits = call.result({batch, k}, Dtype::Float, "candidate_logits");
  const Tensor logsumexp = call.result({batch}, Dtype::Float, "logsumexp");
  const Tensor support_entropy = call.result({batch}, Dtype::Float, "support_entropy");
  const Tensor full_entropy = call.result({batch}, Dtype::Float, "full_entropy");
  const Tensor status = call.result({batch}, Dtype::Int, "status");
  if (batch == 0) return {ids, candidate_logits, logsumexp, support_entropy, full_entropy, status};

  ProposeCandidatesParams params = {};
  if (blocked_ids) {
    const Tensor blocked = call.reads(as_contiguous(*blocked_ids), "blocked_ids");
    params.blocked_ids = data<int64_t>(blocked);
    params.num_blocked = static_cast<int32_t>(blocked.size(0));
  }
  params.logits = rows.const_data_ptr();
  params.logits_type = scalar_type(rows);
  params.batch = batch;
  params.vocab = rows.size(1);
  params.row_stride = rows.stride(0);
  params.k = static_cast<int32_t>(k);
  params.support = static_cast<int32_t>(support);
  params.ids = mutable_data<int64_t>(ids);
  params.candidate_logits = mutable_data<float>(candidate_logits);
  params.logsumexp = mutable_data<float>(logsumexp);
  params.support_entropy = mutable_data<float>(support_entropy);
  params.full_entropy = mutable_data<float>(full_entropy);
  params.status = mutable_data<int32_t>(status);
  const cuda::RowWorkspace workspace = call.row_workspace(batch, params.vocab);
  call.finish(cuda::launch_propose_candidates(params, workspace, call.split(), call.stream()));
  return {ids, candidate_logits, logsumexp, support_entropy, full_entropy, status};
}

}  // namespace
}  // namespace s2t::bindings

STABLE_TORCH_LIBRARY_IMPL(S2T_DEVICE_NAMESPACE, S2T_DEVICE_KEY, m) {
  m.impl("propose_candidates", TORCH_BOX(&s2t::bindings::propose_candidates_device));
}
