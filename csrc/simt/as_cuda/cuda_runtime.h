// In front of CUDA's own header of this name when csrc/cuda is compiled for the emulator: the
// device's part, with the macros of cuda/portable.cuh.
#pragma once

#include "cuda_runtime_api.h"
#include "simt/device_api.h"

#define S2T_KERNEL SIMT_KERNEL
#define S2T_DEVICE SIMT_DEVICE
#define S2T_UNROLL SIMT_UNROLL
#define S2T_NO_UNROLL
#define S2T_SHARED(T, name) SIMT_SHARED(T, name)

namespace s2t::cuda {

template <class... Parameters, class... Arguments>
cudaError_t launch(const char* name,
                   void (*kernel)(Parameters...),
                   dim3 grid,
                   dim3 block,
                   cudaStream_t stream,
                   Arguments&&... arguments) {
  return simt::launch(name, kernel, grid, block, 0, stream, arguments...);
}

}  // namespace s2t::cuda
