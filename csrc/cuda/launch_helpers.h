// What launchers share: from an element type known at run time to a template argument, and slices
// of large batches.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/float16.h"
#include "core/scalar_type.h"

namespace s2t::cuda {

template <class T>
struct TypeTag {
  using type = T;
};

// body(TypeTag<T>()) for the T of `type`.
template <class Body>
cudaError_t by_type(ScalarType type, Body body) {
  switch (type) {
    case ScalarType::kFloat32:
      return body(TypeTag<float>());
    case ScalarType::kBFloat16:
      return body(TypeTag<BFloat16>());
    case ScalarType::kFloat16:
      return body(TypeTag<Float16>());
  }
  return cudaErrorInvalidValue;
}

inline const void* advance_elements(const void* data, ScalarType type, int64_t elements) {
  return static_cast<const char*>(data) + elements * (type == ScalarType::kFloat32 ? 4 : 2);
}

// body(first, count) for runs of rows that fit into the second dimension of a grid.
template <class Body>
cudaError_t for_each_slice(int64_t batch, Body body) {
  constexpr int64_t kMaxGridY = 65535;
  for (int64_t first = 0; first < batch; first += kMaxGridY) {
    const int64_t left = batch - first;
    const cudaError_t status = body(first, left < kMaxGridY ? left : kMaxGridY);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace s2t::cuda
