#include <cstdlib>

#include "bindings/device_call.h"

#if defined(S2T_SIMT)
#include "bindings/launch_options_simt.h"
#else
#include "cuda/arrivals.h"
#endif

namespace s2t::bindings {

const Tensor& DeviceCall::reads(const Tensor& tensor, const char* name) {
  kept_.push_back(tensor);
  use(tensor, Use::kRead, name);
  return tensor;
}

Tensor DeviceCall::result(std::initializer_list<int64_t> shape, Dtype dtype, const char* name) {
  Tensor tensor = new_tensor(shape, dtype, like_);
  use(tensor, Use::kWrite, name);
  return tensor;
}

void* DeviceCall::scratch(int64_t bytes, const char* name) {
  kept_.push_back(result({bytes}, Dtype::Byte, name));
  return kept_.back().mutable_data_ptr();
}

#if defined(S2T_SIMT)

DeviceCall::DeviceCall(const char* op, const Tensor& like) : op_(op), like_(like) {}

cuda::RowSplit DeviceCall::split() const { return simt_split(); }

void DeviceCall::use(const Tensor& tensor, Use use, const char* name) {
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

cuda::RowWorkspace DeviceCall::row_workspace(int64_t batch, int64_t vocab) {
  const int blocks = cuda::resolve_blocks(split(), batch, vocab);
  void* memory = scratch(cuda::row_workspace_bytes(batch, vocab, blocks).total(), "workspace");
  arrivals_.assign(static_cast<size_t>(batch), 0);
  track_.add(arrivals_.data(), arrivals_.size() * sizeof(uint32_t), simt::Access::kReadWrite,
             "arrivals");
  return cuda::row_workspace(memory, arrivals_.data(), batch, vocab, blocks);
}

void DeviceCall::finish(simt::error_t status) {
  if (status != simt::kSuccess) throw std::runtime_error(std::string(op_) + ": launch failed");
  for (const uint32_t count : arrivals_)
    if (count != 0)
      throw std::runtime_error(std::string(op_) + ": an arrival counter was not left at zero");
}

#else

DeviceCall::DeviceCall(const char* op, const Tensor& like)
    : op_(op), like_(like), guard_(like.get_device_index()) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(like.get_device_index(), &stream));
  stream_ = static_cast<simt::stream_t>(stream);
}

// S2T_CUDA_TWO_LAUNCHES=1: scan and merge as two kernels, to tell a fault of the merge from one of
// the scan.
cuda::RowSplit DeviceCall::split() const {
  static const bool two_launches = [] {
    const char* value = std::getenv("S2T_CUDA_TWO_LAUNCHES");
    return value && std::string(value) == "1";
  }();
  return {0, two_launches};
}

void DeviceCall::use(const Tensor&, Use, const char*) {}

cuda::RowWorkspace DeviceCall::row_workspace(int64_t batch, int64_t vocab) {
  const int blocks = cuda::resolve_blocks(split(), batch, vocab);
  void* memory = scratch(cuda::row_workspace_bytes(batch, vocab, blocks).total(), "workspace");
  uint32_t* arrivals = nullptr;
  finish(cuda::arrivals_for(stream_, batch, &arrivals));
  return cuda::row_workspace(memory, arrivals, batch, vocab, blocks);
}

void DeviceCall::finish(simt::error_t status) {
  if (status == simt::kSuccess) return;
  throw std::runtime_error(std::string(op_) + ": CUDA error: " + cudaGetErrorString(status));
}

#endif

}  // namespace s2t::bindings
