#pragma once

// The emulator of csrc/simt as a DeviceCall sees it. Operators are s2t_ext_simt::* on CPU tensors;
// the tensors of a call are declared to the emulator, which then knows every other access for
// wrong.

#include <cuda_runtime_api.h>  // the emulator's

#include "bindings/checks.h"
#include "cuda/tuning.h"
#include "simt/runtime.h"

#define S2T_REGISTER(op) S2T_REGISTER_IN(s2t_ext_simt, CPU, op)

namespace s2t::bindings {

enum class Use { kRead, kWrite, kUpdate };  // kWrite: all of it; kUpdate: parts of it

// Blocks per row of the next calls, 0 for the tuned number; set by set_blocks_per_row.
inline int64_t& chosen_blocks_per_row() {
  static int64_t blocks = 0;
  return blocks;
}

class Device {
 public:
  Device(const char* op, const Tensor& /*like*/) : op_(op) {}

  cudaStream_t stream() const { return nullptr; }

  int blocks_per_row(int64_t batch, int64_t vocab, int warps, int resident) const {
    const int64_t chosen = chosen_blocks_per_row(), chunks = chunk_count(vocab);
    if (chosen == 0) return cuda::blocks_per_row(batch, vocab, warps, resident);
    return static_cast<int>(chosen < chunks ? chosen : chunks);
  }

  // The tensor, and nothing else of its storage. Rows of a matrix are declared one by one, so that
  // reading beyond the end of one is an error.
  void declare(const Tensor& tensor, Use use, const char* name) {
    if (tensor.numel() == 0) return;
    const auto access = use == Use::kRead    ? simt::Access::kReadOnly
                        : use == Use::kWrite ? simt::Access::kUninitialised
                                             : simt::Access::kReadWrite;
    const auto size = static_cast<int64_t>(tensor.element_size());
    const char* start = static_cast<const char*>(tensor.const_data_ptr());
    int64_t last = 0;  // element furthest from the first
    for (int64_t i = 0; i < tensor.dim(); ++i) last += (tensor.size(i) - 1) * tensor.stride(i);
    const bool is_matrix =
        tensor.dim() == 2 && use == Use::kRead && tensor.stride(0) >= tensor.size(1);
    if (!is_matrix) return track_.add(start, static_cast<size_t>((last + 1) * size), access, name);
    for (int64_t row = 0; row < tensor.size(0); ++row)
      track_.add(start + row * tensor.stride(0) * size, static_cast<size_t>(tensor.size(1) * size),
                 access, name);
  }

  void check(cudaError_t status) const {
    if (status == cudaSuccess) return;
    throw std::runtime_error(std::string(op_) + ": launch failed");
  }

 private:
  const char* op_;
  simt::Track track_;
};

}  // namespace s2t::bindings
