#pragma once

// The GPU as a DeviceCall sees it: current stream, device guard, errors.

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>

#include "bindings/checks.h"
#include "cuda/tuning.h"

#define S2T_REGISTER(op) S2T_REGISTER_IN(s2t_ext, CUDA, op)

namespace s2t::bindings {

enum class Use { kRead, kWrite, kUpdate };  // kWrite: all of it; kUpdate: parts of it

class Device {
 public:
  Device(const char* op, const Tensor& like) : op_(op), guard_(like.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(like.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const { return stream_; }

  int blocks_per_row(int64_t batch, int64_t vocab, int warps, int resident) const {
    return cuda::blocks_per_row(batch, vocab, warps, resident);
  }

  // What the kernels may touch; only an emulator wants to know.
  void declare(const Tensor& /*tensor*/, Use /*use*/, const char* /*name*/) {}

  // Throws if a launch failed.
  void check(cudaError_t status) const {
    if (status == cudaSuccess) return;
    throw std::runtime_error(std::string(op_) + ": CUDA error: " + cudaGetErrorString(status));
  }

 private:
  const char* op_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

}  // namespace s2t::bindings
