#pragma once

// Checks of tensor arguments, and what else the bindings share.
//
// Every message reads `<op>: <argument> must <requirement>, got <value>`, word for word as in
// s2t_ext/reference/_common.py; Python sees a RuntimeError. Thrown as plain std::runtime_error:
// STD_TORCH_CHECK would put a function name and a line of our source in front.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/number_text.h"
#include "core/scalar_type.h"

namespace s2t::bindings {

using torch::stable::Tensor;
using Dtype = torch::headeronly::ScalarType;

// -- messages -------------------------------------------------------------------------------------

[[noreturn]] inline void fail(const char* op,
                              const std::string& argument,
                              const std::string& requirement,
                              const std::string& got) {
  throw std::runtime_error(std::string(op) + ": " + argument + " must " + requirement + ", got " +
                           got);
}

inline std::string shape_text(const int64_t* sizes, int64_t rank) {
  std::string text = "[";
  for (int64_t i = 0; i < rank; ++i) text += (i == 0 ? "" : ", ") + std::to_string(sizes[i]);
  return text + "]";
}

inline std::string shape_text(const Tensor& tensor) {
  return shape_text(tensor.sizes().data(), tensor.dim());
}

// As Python writes it after "torch.".
inline std::string dtype_name(Dtype dtype) {
  switch (dtype) {
    case Dtype::Float:
      return "float32";
    case Dtype::Double:
      return "float64";
    case Dtype::Half:
      return "float16";
    case Dtype::BFloat16:
      return "bfloat16";
    case Dtype::Bool:
      return "bool";
    case Dtype::Byte:
      return "uint8";
    case Dtype::Char:
      return "int8";
    case Dtype::Short:
      return "int16";
    case Dtype::Int:
      return "int32";
    case Dtype::Long:
      return "int64";
    case Dtype::ComplexFloat:
      return "complex64";
    case Dtype::ComplexDouble:
      return "complex128";
    default:
      return torch::headeronly::toString(dtype);
  }
}

inline std::string device_name(const Tensor& tensor) {
  const auto device = tensor.device();
  std::string name;
  switch (device.type()) {
    case torch::headeronly::DeviceType::CPU:
      return "cpu";
    case torch::headeronly::DeviceType::Meta:
      return "meta";
    case torch::headeronly::DeviceType::CUDA:
      name = "cuda";
      break;
    default:
      name = "device type " + std::to_string(static_cast<int>(device.type()));
  }
  return name + ":" + std::to_string(device.index());
}

// -- checks ---------------------------------------------------------------------------------------

inline const std::initializer_list<Dtype>& logit_dtypes() {
  static const std::initializer_list<Dtype> dtypes = {Dtype::Float, Dtype::BFloat16, Dtype::Half};
  return dtypes;
}

inline void check_dtype(const char* op,
                        const std::string& argument,
                        const Tensor& tensor,
                        const std::initializer_list<Dtype>& allowed) {
  const Dtype dtype = tensor.scalar_type();
  std::string text;
  size_t place = 0;
  for (const Dtype candidate : allowed) {
    if (dtype == candidate) return;
    ++place;
    text += (place == 1 ? "" : place == allowed.size() ? " or " : ", ") + dtype_name(candidate);
  }
  fail(op, argument, "be " + text, dtype_name(dtype));
}

// `text` names the dimensions, e.g. "[batch, vocab]".
inline void check_rank(const char* op,
                       const std::string& argument,
                       const Tensor& tensor,
                       int64_t rank,
                       const char* text) {
  if (tensor.dim() == rank) return;
  fail(op, argument, "have " + std::to_string(rank) + " dimensions " + text, shape_text(tensor));
}

inline void check_shape(const char* op,
                        const std::string& argument,
                        const Tensor& tensor,
                        std::initializer_list<int64_t> shape,
                        const char* text) {
  const int64_t rank = static_cast<int64_t>(shape.size());
  bool is_equal = tensor.dim() == rank;
  for (int64_t i = 0; is_equal && i < rank; ++i) is_equal = tensor.size(i) == shape.begin()[i];
  if (is_equal) return;
  fail(op, argument, std::string("have shape ") + text + " = " + shape_text(shape.begin(), rank),
       shape_text(tensor));
}

inline void check_device(const char* op,
                         const std::string& argument,
                         const Tensor& tensor,
                         const Tensor& like,
                         const char* like_name) {
  if (tensor.device() == like.device()) return;
  fail(op, argument,
       std::string("be on the device of ") + like_name + " (" + device_name(like) + ")",
       device_name(tensor));
}

inline void check_range(
    const char* op, const std::string& argument, int64_t value, int64_t low, int64_t high) {
  if (low <= value && value <= high) return;
  fail(op, argument, "be in [" + std::to_string(low) + ", " + std::to_string(high) + "]",
       std::to_string(value));
}

inline void check_finite(const char* op, const char* argument, double value) {
  if (!std::isfinite(value)) fail(op, argument, "be finite", number_text(value));
}

inline void check_positive(const char* op, const char* argument, double value) {
  if (std::isfinite(value) && value > 0) return;
  fail(op, argument, "be positive and finite", number_text(value));
}

inline void check_not_negative(const char* op, const char* argument, double value) {
  if (std::isfinite(value) && value >= 0) return;
  fail(op, argument, "be at least 0 and finite", number_text(value));
}

// -- tensors --------------------------------------------------------------------------------------

// Only for dtypes that passed check_dtype(logit_dtypes()).
inline s2t::ScalarType scalar_type(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case Dtype::BFloat16:
      return s2t::ScalarType::kBFloat16;
    case Dtype::Half:
      return s2t::ScalarType::kFloat16;
    default:
      return s2t::ScalarType::kFloat32;
  }
}

inline int64_t element_bytes(const char* op, const std::string& argument, Dtype dtype) {
  switch (dtype) {
    case Dtype::Bool:
    case Dtype::Byte:
    case Dtype::Char:
    case Dtype::Float8_e4m3fn:
    case Dtype::Float8_e4m3fnuz:
    case Dtype::Float8_e5m2:
    case Dtype::Float8_e5m2fnuz:
      return 1;
    case Dtype::Half:
    case Dtype::BFloat16:
    case Dtype::Short:
    case Dtype::UInt16:
      return 2;
    case Dtype::Float:
    case Dtype::Int:
    case Dtype::UInt32:
    case Dtype::ComplexHalf:
      return 4;
    case Dtype::Double:
    case Dtype::Long:
    case Dtype::UInt64:
    case Dtype::ComplexFloat:
      return 8;
    case Dtype::ComplexDouble:
      return 16;
    default:
      fail(op, argument, "be of a type with whole bytes and no scale", dtype_name(dtype));
  }
}

// Whether a kernel can walk the last dimension. With one element or none there the stride means
// nothing.
inline bool has_unit_last_stride(const Tensor& tensor) {
  const int64_t last = tensor.dim() - 1;
  return tensor.size(last) <= 1 || tensor.stride(last) == 1;
}

inline Tensor as_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// Uninitialised and contiguous, on the device of `like`. By the plain shim: outputs of one row are
// small, and going through the dispatcher for each would be a tenth of the operator's time.
inline Tensor new_tensor(std::initializer_list<int64_t> shape, Dtype dtype, const Tensor& like) {
  int64_t strides[4] = {};
  const int64_t rank = static_cast<int64_t>(shape.size());
  int64_t stride = 1;
  for (int64_t i = rank - 1; i >= 0; --i) {
    strides[i] = stride;
    stride *= shape.begin()[i];
  }
  int32_t device_type = 0, device_index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  const int32_t dtype_code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(rank, shape.begin(), strides, dtype_code,
                                                  device_type, device_index, &handle));
  return Tensor(handle);
}

template <typename Element>
const Element* data(const Tensor& tensor) {
  return static_cast<const Element*>(tensor.const_data_ptr());
}

template <typename Element>
Element* mutable_data(const Tensor& tensor) {
  return static_cast<Element*>(tensor.mutable_data_ptr());
}

}  // namespace s2t::bindings
