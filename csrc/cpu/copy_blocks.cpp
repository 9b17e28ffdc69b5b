#include "cpu/copy_blocks.h"

#include <cstring>

namespace s2t::cpu {
namespace {

void copy_in_one_cache(const CopyBlocksParams& params, const BlockCache& cache) {
  if (cache.block_bytes == 0) return;  // an empty cache may have no memory: data is null
  for (int64_t i = 0; i < params.count; ++i) {
    const int64_t source = params.source[i], target = params.target[i];
    if (source == target) continue;
    std::memcpy(cache.data + target * cache.block_stride, cache.data + source * cache.block_stride,
                static_cast<size_t>(cache.block_bytes));
  }
}

}  // namespace

void copy_blocks(const CopyBlocksParams& params, const Parallel& parallel) {
  // About what one core copies in the time that waking the threads takes.
  constexpr int64_t kBytesPerTask = 1 << 17;
  int64_t bytes = 0;
  for (int64_t i = 0; i < params.num_caches; ++i) {
    bytes += params.count * params.caches[i].block_bytes;
  }
  const Parallel here = {parallel.run, 1};
  for_each(bytes < 2 * kBytesPerTask ? here : parallel, params.num_caches,
           [&](int64_t i) { copy_in_one_cache(params, params.caches[i]); });
}

}  // namespace s2t::cpu
