#include <vector>

#include "bindings/commit_checks.h"
#include "bindings/device_call.h"

namespace s2t::bindings {
namespace {

void commit_candidates_device(const std::vector<Tensor>& keys,
                              const std::vector<Tensor>& values,
                              const Tensor& slot,
                              const Tensor& start,
                              int64_t k) {
  check_commit(keys, values, slot, start, k);
  DeviceCall call(kCommitOp, slot);
  const Tensor slots = call.reads(as_contiguous(slot), "slot");
  const Tensor starts = call.reads(as_contiguous(start), "start");
  for (const Tensor& buffer : keys) call.use(buffer, Use::kUpdate, "keys");
  for (const Tensor& buffer : values) call.use(buffer, Use::kUpdate, "values");
  const std::vector<CommitBuffer> buffers = commit_buffers(keys, values);

  CommitCandidatesParams params = {};
  params.buffers = buffers.data();
  params.num_buffers = static_cast<int64_t>(buffers.size());
  params.slot = data<int64_t>(slots);
  params.start = data<int64_t>(starts);
  params.batch = slots.size(0);
  params.k = static_cast<int32_t>(k);
  call.finish(cuda::launch_commit_candidates(params, call.stream()));
}

}  // namespace
}  // namespace s2t::bindings

STABLE_TORCH_LIBRARY_IMPL(S2T_DEVICE_NAMESPACE, S2T_DEVICE_KEY, m) {
  m.impl("commit_candidates", TORCH_BOX(&s2t::bindings::commit_candidates_device));
}
