// Keeps the winner's key/value entry: one block copies the heads of one row in one buffer, 16 bytes
// at a time where addresses and sizes allow it. Source and target are different positions of one
// head, so they never overlap.
#include "launchers.h"
#include "warp.cuh"

namespace s2t::cuda {
namespace {

// The buffers travel in the kernel's arguments: no copy to the device, and a captured graph keeps
// its own.
struct CommitBatch {
  CommitBuffer buffers[kCommitBuffers];
  const int64_t* slot;
  const int64_t* start;
  int64_t k;
};

template <class Unit>
S2T_DEVICE void copy_entries(const CommitBuffer& buffer, char* target, int64_t distance) {
  const int64_t units = buffer.entry_bytes / static_cast<int64_t>(sizeof(Unit));
  for (int64_t i = thread_id(); i < buffer.heads * units; i += kCommitThreads) {
    char* address =
        target + i / units * buffer.head_stride + i % units * static_cast<int64_t>(sizeof(Unit));
    __stcg(reinterpret_cast<Unit*>(address),
           __ldcg(reinterpret_cast<const Unit*>(address + distance)));
  }
}

S2T_KERNEL void __launch_bounds__(kCommitThreads) commit_candidates_kernel(CommitBatch p) {
  const auto row = static_cast<int64_t>(blockIdx.x);
  const CommitBuffer& buffer = p.buffers[blockIdx.y];
  const int64_t slot = p.slot[row], start = p.start[row];
  // The host cannot check values on the device without waiting for it.
  if (slot <= 0 || slot >= p.k || start < 0 || start > buffer.length - p.k) return;
  char* target = buffer.data + row * buffer.batch_stride + start * buffer.position_stride;
  const int64_t distance = slot * buffer.position_stride;
  const uint64_t bits = reinterpret_cast<uint64_t>(target) | static_cast<uint64_t>(distance) |
                        static_cast<uint64_t>(buffer.head_stride) |
                        static_cast<uint64_t>(buffer.entry_bytes);
  if (bits % 16 == 0)
    copy_entries<uint4>(buffer, target, distance);
  else if (bits % 4 == 0)
    copy_entries<unsigned>(buffer, target, distance);
  else
    copy_entries<unsigned char>(buffer, target, distance);
}

}  // namespace

cudaError_t launch_commit_candidates(const CommitCandidatesParams& params, cudaStream_t stream) {
  if (params.batch == 0) return cudaSuccess;
  for (int64_t first = 0; first < params.num_buffers; first += kCommitBuffers) {
    const int64_t left = params.num_buffers - first;
    const int count = left < kCommitBuffers ? static_cast<int>(left) : kCommitBuffers;
    CommitBatch batch = {};
    for (int i = 0; i < count; ++i) batch.buffers[i] = params.buffers[first + i];
    batch.slot = params.slot;
    batch.start = params.start;
    batch.k = params.k;
    const dim3 grid(static_cast<unsigned>(params.batch), static_cast<unsigned>(count));
    const cudaError_t status = launch("commit_candidates", commit_candidates_kernel, grid,
                                      dim3(kCommitThreads), stream, batch);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace s2t::cuda
