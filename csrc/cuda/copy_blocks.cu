// Copies blocks of paged caches in all layers: a slice of one block in one cache per thread block,
// 16 bytes at a time where addresses and sizes allow it.
#include "launchers.h"
#include "warp.cuh"

namespace s2t::cuda {
namespace {

// The caches travel in the kernel's arguments: no copy to the device, and a captured graph keeps
// its own.
struct CopyBatch {
  BlockCache caches[kCopyCaches];
  const int64_t* source;
  const int64_t* target;
};

template <class Unit>
S2T_DEVICE void copy_slices(char* target, const char* source, int64_t bytes) {
  const int64_t units = bytes / static_cast<int64_t>(sizeof(Unit));
  const int64_t step = static_cast<int64_t>(gridDim.z) * kCopyThreads;
  const int64_t first = static_cast<int64_t>(blockIdx.z) * kCopyThreads + thread_id();
  for (int64_t i = first; i < units; i += step) {
    __stcg(reinterpret_cast<Unit*>(target) + i, __ldcg(reinterpret_cast<const Unit*>(source) + i));
  }
}

S2T_KERNEL void __launch_bounds__(kCopyThreads) copy_blocks_kernel(CopyBatch p) {
  const BlockCache& cache = p.caches[blockIdx.y];
  const int64_t from = p.source[blockIdx.x], to = p.target[blockIdx.x];
  // The host cannot check values on the device without waiting for it.
  if (from == to || from < 0 || to < 0 || from >= cache.blocks || to >= cache.blocks) return;
  const char* source = cache.data + from * cache.block_stride;
  char* target = cache.data + to * cache.block_stride;
  const uint64_t bits = reinterpret_cast<uint64_t>(cache.data) |
                        static_cast<uint64_t>(cache.block_stride) |
                        static_cast<uint64_t>(cache.block_bytes);
  if (bits % 16 == 0)
    copy_slices<uint4>(target, source, cache.block_bytes);
  else if (bits % 4 == 0)
    copy_slices<unsigned>(target, source, cache.block_bytes);
  else
    copy_slices<unsigned char>(target, source, cache.block_bytes);
}

// Thread blocks for one block of a cache.
int slices(const CopyBatch& batch, int count) {
  constexpr int64_t kMaxGridZ = 65535, kBytes = 16 * kCopyThreads;
  int64_t largest = 1;
  for (int i = 0; i < count; ++i) {
    const int64_t bytes = batch.caches[i].block_bytes;
    largest = bytes > largest ? bytes : largest;
  }
  const int64_t wanted = (largest + kBytes - 1) / kBytes;
  return static_cast<int>(wanted < kMaxGridZ ? wanted : kMaxGridZ);
}

}  // namespace

cudaError_t launch_copy_blocks(const CopyBlocksParams& params, cudaStream_t stream) {
  if (params.count == 0) return cudaSuccess;
  for (int64_t first = 0; first < params.num_caches; first += kCopyCaches) {
    const int64_t left = params.num_caches - first;
    const int count = left < kCopyCaches ? static_cast<int>(left) : kCopyCaches;
    CopyBatch batch = {};
    for (int i = 0; i < count; ++i) batch.caches[i] = params.caches[first + i];
    batch.source = params.source;
    batch.target = params.target;
    const dim3 grid(static_cast<unsigned>(params.count), static_cast<unsigned>(count),
                    static_cast<unsigned>(slices(batch, count)));
    const cudaError_t status =
        launch("copy_blocks", copy_blocks_kernel, grid, dim3(kCopyThreads), stream, batch);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace s2t::cuda
