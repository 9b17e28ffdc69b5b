#pragma once

// Key and value buffers as commit_candidates takes them: checks, and tensors -> CommitBuffer.

#include <algorithm>
#include <string>
#include <vector>

#include "bindings/checks.h"
#include "core/commit_candidates.h"
#include "core/propose_candidates.h"

namespace s2t::bindings {

constexpr const char* kCommitOp = "commit_candidates";

inline void check_buffers(const char* name,
                          const std::vector<Tensor>& buffers,
                          const Tensor& slot) {
  const int64_t batch = slot.size(0);
  for (size_t layer = 0; layer < buffers.size(); ++layer) {
    const Tensor& buffer = buffers[layer];
    const bool is_good = buffer.dim() == 4 && buffer.size(0) == batch &&
                         buffer.device() == slot.device() &&
                         (buffer.size(3) <= 1 || buffer.stride(3) == 1);
    if (is_good) continue;  // spares the ordinary case the argument's name
    const std::string argument = std::string(name) + "[" + std::to_string(layer) + "]";
    check_rank(kCommitOp, argument, buffer, 4, "[batch, heads, length, head_size]");
    check_device(kCommitOp, argument, buffer, slot, "slot");
    if (buffer.size(0) != batch) {
      fail(kCommitOp, argument, "have batch " + std::to_string(batch),
           std::to_string(buffer.size(0)));
    }
    fail(kCommitOp, argument, "have a last stride of 1", std::to_string(buffer.stride(3)));
  }
}

inline void check_commit(const std::vector<Tensor>& keys,
                         const std::vector<Tensor>& values,
                         const Tensor& slot,
                         const Tensor& start,
                         int64_t k) {
  if (keys.size() != values.size()) {
    fail(kCommitOp, "values", "have as many layers as keys (" + std::to_string(keys.size()) + ")",
         std::to_string(values.size()));
  }
  check_range(kCommitOp, "k", k, 1, kMaxCandidates);
  check_rank(kCommitOp, "slot", slot, 1, "[batch]");
  check_dtype(kCommitOp, "slot", slot, {Dtype::Long});
  check_dtype(kCommitOp, "start", start, {Dtype::Long});
  check_shape(kCommitOp, "start", start, {slot.size(0)}, "[batch]");
  check_device(kCommitOp, "start", start, slot, "slot");
  check_buffers("keys", keys, slot);
  check_buffers("values", values, slot);
}

// That every winner lies in its candidates and in every buffer; for values the host can read.
inline void check_places(const CommitCandidatesParams& params) {
  if (params.num_buffers == 0) return;
  int64_t shortest = params.buffers[0].length;
  for (int64_t i = 1; i < params.num_buffers; ++i) {
    shortest = std::min(shortest, params.buffers[i].length);
  }
  const int64_t last = shortest - params.k;
  for (int64_t b = 0; b < params.batch; ++b) {
    const int64_t slot = params.slot[b], start = params.start[b];
    if (slot >= params.k) {
      fail(kCommitOp, "slot", "be less than k = " + std::to_string(params.k), std::to_string(slot));
    }
    if (slot > 0 && (start < 0 || start > last)) {
      fail(kCommitOp, "start",
           "be in [0, " + std::to_string(last) + "] (length " + std::to_string(shortest) +
               " less k = " + std::to_string(params.k) + ")",
           std::to_string(start));
    }
  }
}

inline std::vector<CommitBuffer> commit_buffers(const std::vector<Tensor>& keys,
                                                const std::vector<Tensor>& values) {
  std::vector<CommitBuffer> result;
  result.reserve(keys.size() + values.size());
  for (const auto* buffers : {&keys, &values}) {
    for (const Tensor& buffer : *buffers) {
      const int64_t bytes =
          element_bytes(kCommitOp, buffers == &keys ? "keys" : "values", buffer.scalar_type());
      CommitBuffer raw = {};
      raw.data = mutable_data<char>(buffer);
      raw.heads = buffer.size(1);
      raw.length = buffer.size(2);
      raw.entry_bytes = buffer.size(3) * bytes;
      raw.batch_stride = buffer.stride(0) * bytes;
      raw.head_stride = buffer.stride(1) * bytes;
      raw.position_stride = buffer.stride(2) * bytes;
      result.push_back(raw);
    }
  }
  return result;
}

}  // namespace s2t::bindings
