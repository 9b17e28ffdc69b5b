#include <vector>

#include "bindings/commit_checks.h"
#include "bindings/parallel_cpu.h"
#include "cpu/commit_candidates.h"

namespace s2t::bindings {
namespace {

void commit_candidates_cpu(const std::vector<Tensor>& keys,
                           const std::vector<Tensor>& values,
                           const Tensor& slot,
                           const Tensor& start,
                           int64_t k) {
  check_commit(keys, values, slot, start, k);
  const Tensor slots = as_contiguous(slot), starts = as_contiguous(start);
  check_places(keys, values, slots, starts, k);
  const std::vector<CommitBuffer> buffers = commit_buffers(keys, values);

  CommitCandidatesParams params = {};
  params.buffers = buffers.data();
  params.num_buffers = static_cast<int64_t>(buffers.size());
  params.slot = data<int64_t>(slots);
  params.start = data<int64_t>(starts);
  params.batch = slots.size(0);
  params.k = static_cast<int32_t>(k);
  cpu::commit_candidates(params, torch_parallel());
}

}  // namespace
}  // namespace s2t::bindings

STABLE_TORCH_LIBRARY_IMPL(s2t_ext, CPU, m) {
  m.impl("commit_candidates", TORCH_BOX(&s2t::bindings::commit_candidates_cpu));
}
