#pragma once

// Keeping the winner's key/value entry: one head's entry of one position is copied, whatever the
// length of the prefix.

#include "host_device.h"

namespace s2t {

// One key or value buffer [batch, heads, length, head_size] with last stride 1; strides in bytes,
// so that the element type does not matter.
struct CommitBuffer {
  char* data;
  int64_t heads;
  int64_t length;
  int64_t entry_bytes;  // head_size elements
  int64_t batch_stride;
  int64_t head_stride;
  int64_t position_stride;
};

struct CommitCandidatesParams {
  const CommitBuffer* buffers;  // [num_buffers]: keys and values of all layers
  int64_t num_buffers;
  const int64_t* slot;   // [batch]; 0 or negative: the row stays as it is
  const int64_t* start;  // [batch]: position of slot 0
  int64_t batch;
  int32_t k;
};

}  // namespace s2t
