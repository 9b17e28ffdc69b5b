#include <tuple>

#include "bindings/call.h"
#include "bindings/logits_arguments.h"

namespace s2t::bindings {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> propose_candidates(
    const Tensor& logits, int64_t k, int64_t support, const std::optional<Tensor>& blocked_ids) {
  constexpr const char* kOp = "propose_candidates";
  check_logits(kOp, "logits", logits);
  check_range(kOp, "k", k, 1, kMaxCandidates);
  if (support != 0 && (support < k || support > kMaxCandidates)) {
    fail(kOp, "support", "be 0 or in [k, " + std::to_string(kMaxCandidates) + "]",
         std::to_string(support));
  }
  check_blocked_ids(kOp, blocked_ids, logits);

  Call call(kOp, logits);
  const Tensor rows = call.rows(logits, "logits");
  const int64_t batch = rows.size(0);
  const Tensor ids = call.result({batch, k}, Dtype::Long, "ids");
  const Tensor candidate_logits = call.result({batch, k}, Dtype::Float, "candidate_logits");
  const Tensor logsumexp = call.result({batch}, Dtype::Float, "logsumexp");
  const Tensor support_entropy = call.result({batch}, Dtype::Float, "support_entropy");
  const Tensor full_entropy = call.result({batch}, Dtype::Float, "full_entropy");
  const Tensor status = call.result({batch}, Dtype::Int, "status");

  ProposeCandidatesParams params = {};
  set_logits(params, rows);
  set_blocked_ids(params, call, blocked_ids);
  params.k = static_cast<int32_t>(k);
  params.support = static_cast<int32_t>(support);
  params.ids = mutable_data<int64_t>(ids);
  params.candidate_logits = mutable_data<float>(candidate_logits);
  params.logsumexp = mutable_data<float>(logsumexp);
  params.support_entropy = mutable_data<float>(support_entropy);
  params.full_entropy = mutable_data<float>(full_entropy);
  params.status = mutable_data<int32_t>(status);
  call.run(params);
  return {ids, candidate_logits, logsumexp, support_entropy, full_entropy, status};
}

}  // namespace s2t::bindings

S2T_REGISTER(propose_candidates)
