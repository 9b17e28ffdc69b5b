// The part of a launch that a host file sees, without device code: error and stream types.
//
//   nvcc, or g++ with USE_CUDA   CUDA's own
//   g++ otherwise                the emulator's
#pragma once

#if defined(__CUDACC__) || defined(USE_CUDA)

#include <cuda_runtime_api.h>

namespace simt {
using stream_t = cudaStream_t;
using error_t = cudaError_t;
constexpr error_t kSuccess = cudaSuccess;
constexpr error_t kInvalidValue = cudaErrorInvalidValue;
}  // namespace simt

#else

#include "runtime.h"

#endif
