#include "core/copy_blocks.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "bindings/call.h"

namespace s2t::bindings {
namespace {

constexpr const char* kCopyOp = "copy_blocks";

// Whether the elements of one block fill a run of memory, in whatever order of dimensions.
bool has_gapless_blocks(const Tensor& cache) {
  std::vector<int64_t> dims(static_cast<size_t>(cache.dim()) - 1);
  std::iota(dims.begin(), dims.end(), 1);
  std::sort(dims.begin(), dims.end(),
            [&](int64_t a, int64_t b) { return cache.stride(a) < cache.stride(b); });
  int64_t elements = 1;
  for (const int64_t dim : dims) {
    if (cache.size(dim) != 1 && cache.stride(dim) != elements) return false;
    elements *= cache.size(dim);
  }
  return cache.size(0) <= 1 || cache.stride(0) >= elements;
}

std::string strides_text(const Tensor& tensor) {
  return shape_text(tensor.strides().data(), tensor.dim());
}

BlockCache block_cache(const Tensor& cache, const Tensor& source, size_t layer) {
  const std::string argument = "caches[" + std::to_string(layer) + "]";
  if (cache.dim() < 2) {
    fail(kCopyOp, argument, "have at least 2 dimensions [blocks, ...]", shape_text(cache));
  }
  check_device(kCopyOp, argument, cache, source, "source");
  const bool is_empty = cache.numel() == 0;
  if (!is_empty && !has_gapless_blocks(cache)) {
    fail(kCopyOp, argument, "have blocks without gaps in memory", "strides " + strides_text(cache));
  }
  const int64_t bytes = element_bytes(kCopyOp, argument, cache.scalar_type());
  BlockCache raw = {};
  raw.data = mutable_data<char>(cache);
  raw.blocks = cache.size(0);
  raw.block_bytes = is_empty ? 0 : cache.numel() / cache.size(0) * bytes;
  raw.block_stride = cache.stride(0) * bytes;
  return raw;
}

void check_block(const char* argument, int64_t block, int64_t blocks) {
  if (0 <= block && block < blocks) return;
  fail(kCopyOp, argument, "be in [0, " + std::to_string(blocks) + ")", std::to_string(block));
}

// That every block is in every cache, and no pair writes what another reads or writes; for values
// the host can read.
void check_pairs(const CopyBlocksParams& params) {
  if (params.num_caches == 0) return;
  int64_t fewest = params.caches[0].blocks;
  for (int64_t i = 1; i < params.num_caches; ++i) {
    fewest = std::min(fewest, params.caches[i].blocks);
  }
  std::vector<int64_t> written;
  for (int64_t i = 0; i < params.count; ++i) {
    check_block("source", params.source[i], fewest);
    check_block("target", params.target[i], fewest);
    if (params.source[i] != params.target[i]) written.push_back(params.target[i]);
  }
  std::sort(written.begin(), written.end());
  const auto twice = std::adjacent_find(written.begin(), written.end());
  if (twice != written.end()) {
    fail(kCopyOp, "target", "name a block once", std::to_string(*twice) + " twice");
  }
  for (int64_t i = 0; i < params.count; ++i) {
    const int64_t source = params.source[i];
    if (source == params.target[i]) continue;
    if (std::binary_search(written.begin(), written.end(), source)) {
      fail(kCopyOp, "target", "name no block of source", std::to_string(source));
    }
  }
}

}  // namespace

void copy_blocks(const std::vector<Tensor>& caches, const Tensor& source, const Tensor& target) {
  check_rank(kCopyOp, "source", source, 1, "[count]");
  check_dtype(kCopyOp, "source", source, {Dtype::Long});
  check_dtype(kCopyOp, "target", target, {Dtype::Long});
  check_shape(kCopyOp, "target", target, {source.size(0)}, "[count]");
  check_device(kCopyOp, "target", target, source, "source");
  std::vector<BlockCache> raw;
  raw.reserve(caches.size());
  for (size_t i = 0; i < caches.size(); ++i) raw.push_back(block_cache(caches[i], source, i));
  Call call(kCopyOp, source);
  for (const Tensor& cache : caches) call.updates(cache, "caches");

  CopyBlocksParams params = {};
  params.caches = raw.data();
  params.num_caches = static_cast<int64_t>(raw.size());
  params.source = call.values<int64_t>(source, "source");
  params.target = call.values<int64_t>(target, "target");
  params.count = source.size(0);
  if (Call::kReadsValues) check_pairs(params);
  call.run(params);
}

}  // namespace s2t::bindings

S2T_REGISTER(copy_blocks)
