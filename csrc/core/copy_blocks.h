#pragma once

// Whole blocks of paged key/value caches, copied in all layers.

#include "host_device.h"

namespace s2t {

// One layer's cache [blocks, ...] whose blocks are gapless in memory; sizes and strides in bytes,
// so that the element type and the order of the dimensions in a block do not matter.
struct BlockCache {
  char* data;
  int64_t blocks;
  int64_t block_bytes;
  int64_t block_stride;
};

struct CopyBlocksParams {
  const BlockCache* caches;  // [num_caches]
  int64_t num_caches;
  const int64_t* source;  // [count]
  const int64_t* target;  // [count]; the block itself: nothing to do
  int64_t count;
};

}  // namespace s2t
