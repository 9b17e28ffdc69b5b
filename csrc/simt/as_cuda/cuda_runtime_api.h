// In front of CUDA's own header of this name when csrc/cuda and its bindings are compiled for the
// emulator: the host's part.
#pragma once

#include "simt/runtime.h"

using cudaStream_t = simt::stream_t;
using cudaError_t = simt::error_t;
constexpr cudaError_t cudaSuccess = simt::kSuccess;
constexpr cudaError_t cudaErrorInvalidValue = simt::kInvalidValue;

inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  simt::host_fill(memory, value, bytes);
  return cudaSuccess;
}

inline const char* cudaGetErrorString(cudaError_t) { return "not allowed by the emulator"; }
