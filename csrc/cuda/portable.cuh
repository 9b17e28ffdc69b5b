// The one header a kernel file includes for "the device": CUDA's own names, and a few macros that
// keep the kernels portable between nvcc and a compiler that emulates CUDA on a CPU. Such an
// emulator puts its own <cuda_runtime.h> in front, which defines the macros and `launch` its way.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#if !defined(S2T_KERNEL)

#define S2T_KERNEL __global__
#define S2T_DEVICE __device__ __forceinline__
#define S2T_UNROLL _Pragma("unroll")
#define S2T_NO_UNROLL _Pragma("unroll 1")
#define S2T_SHARED(T, name) __shared__ T name

namespace s2t::cuda {

// `name` is for an emulator's reports. Arguments are converted to the kernel's parameter types.
template <class... Parameters, class... Arguments>
cudaError_t launch(const char* /*name*/,
                   void (*kernel)(Parameters...),
                   dim3 grid,
                   dim3 block,
                   cudaStream_t stream,
                   Arguments&&... arguments) {
  kernel<<<grid, block, 0, stream>>>(static_cast<Parameters>(arguments)...);
  return cudaGetLastError();
}

}  // namespace s2t::cuda

#endif
