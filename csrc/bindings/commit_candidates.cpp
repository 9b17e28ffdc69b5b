#include <vector>

#include "bindings/call.h"
#include "bindings/commit_arguments.h"

namespace s2t::bindings {

void commit_candidates(const std::vector<Tensor>& keys,
                       const std::vector<Tensor>& values,
                       const Tensor& slot,
                       const Tensor& start,
                       int64_t k) {
  check_commit(keys, values, slot, start, k);
  Call call(kCommitOp, slot);
  for (const Tensor& buffer : keys) call.updates(buffer, "keys");
  for (const Tensor& buffer : values) call.updates(buffer, "values");
  const std::vector<CommitBuffer> buffers = commit_buffers(keys, values);

  CommitCandidatesParams params = {};
  params.buffers = buffers.data();
  params.num_buffers = static_cast<int64_t>(buffers.size());
  params.slot = call.values<int64_t>(slot, "slot");
  params.start = call.values<int64_t>(start, "start");
  params.batch = slot.size(0);
  params.k = static_cast<int32_t>(k);
  if (Call::kReadsValues) check_places(params);
  call.run(params);
}

}  // namespace s2t::bindings

S2T_REGISTER(commit_candidates)
