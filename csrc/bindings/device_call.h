#pragma once

// One call of an operator on a device: current stream, device guard, workspace, errors.
//
// Every *_cuda.cpp is compiled twice. For _C_cuda it registers s2t_ext::* for CUDA tensors. With
// S2T_SIMT it becomes part of the test-only library _simt and registers the same host code and
// kernels as s2t_ext_simt::* for CPU tensors; there the tensors of a call are also declared to the
// emulator, which then knows every other access for wrong.

#include <string>

#include "bindings/checks.h"
#include "cuda/launchers.h"

#if defined(S2T_SIMT)
#define S2T_DEVICE_NAMESPACE s2t_ext_simt
#define S2T_DEVICE_KEY CPU
#else
#include <torch/csrc/stable/accelerator.h>
#define S2T_DEVICE_NAMESPACE s2t_ext
#define S2T_DEVICE_KEY CUDA
#endif

namespace s2t::bindings {

enum class Use { kRead, kWrite, kUpdate };  // kWrite: all of it; kUpdate: parts of it

class DeviceCall {
 public:
  // `like`: a tensor on the device; declared argument checks come before.
  DeviceCall(const char* op, const Tensor& like);

  simt::stream_t stream() const { return stream_; }
  cuda::RowSplit split() const;

  // Declares what the kernels may touch: the tensor, and nothing else of its storage. Rows of a
  // matrix are declared one by one, so that reading beyond the end of one is an error.
  void use(const Tensor& tensor, Use use, const char* name);

  // The same for an argument that is only read; returns it.
  const Tensor& reads(const Tensor& tensor, const char* name);

  // A new tensor that the kernels write.
  Tensor result(std::initializer_list<int64_t> shape, Dtype dtype, const char* name);

  // Uninitialised memory for the duration of the call, in the order of the stream.
  void* scratch(int64_t bytes, const char* name);
  cuda::RowWorkspace row_workspace(int64_t batch, int64_t vocab);

  // After the launch; throws if it failed.
  void finish(simt::error_t status);

 private:
  const char* op_;
  const Tensor& like_;
  std::vector<Tensor> kept_;  // until the launch: copies that were made contiguous, and scratch
  simt::stream_t stream_ = nullptr;
#if defined(S2T_SIMT)
  simt::Track track_;
  std::vector<uint32_t> arrivals_;
#else
  torch::stable::accelerator::DeviceGuard guard_;
#endif
};

}  // namespace s2t::bindings
