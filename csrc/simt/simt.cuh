// The one header a kernel file includes for "the device".
//
// With nvcc it is a few thin macros over real CUDA. With g++ it is the emulator: the same kernel
// source runs on the CPU, one fiber per CUDA thread, and every access is checked (README.md of this
// folder lists the rules a kernel keeps so that both worlds accept it).
#pragma once

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#include "host.h"

#define SIMT_EMULATED 0
#define SIMT_KERNEL __global__
#define SIMT_DEVICE __device__ __forceinline__
#define SIMT_UNROLL _Pragma("unroll")
#define SIMT_SHARED(T, name) __shared__ T name
#define SIMT_SHARED_ARRAY(T, name, N) __shared__ T name[N]
#define SIMT_DYNAMIC_SHARED(T, name)                                           \
  extern __shared__ __align__(16) unsigned char simt_dynamic_shared_storage[]; \
  T* name = reinterpret_cast<T*>(simt_dynamic_shared_storage)

namespace simt {

constexpr size_t kSharedWithoutOptIn = 48 * 1024;

template <class... Parameters, class... Arguments>
error_t launch(const char* /*name*/,
               void (*kernel)(Parameters...),
               dim3 grid,
               dim3 block,
               size_t shared_bytes,
               stream_t stream,
               Arguments&&... arguments) {
  if (shared_bytes > kSharedWithoutOptIn) {
    const error_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                static_cast<int>(shared_bytes));
    if (status != cudaSuccess) return status;
  }
  kernel<<<grid, block, shared_bytes, stream>>>(static_cast<Parameters>(arguments)...);
  return cudaGetLastError();
}

// Asynchronous copies to shared memory (sm_80+). `bytes` is 16; what lies beyond `source_bytes`
// becomes zero.
__device__ __forceinline__ void cp_async16(void* shared,
                                           const void* source,
                                           unsigned source_bytes) {
  const unsigned target = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source),
               "r"(source_bytes)
               : "memory");
}
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kGroupsLeft>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroupsLeft) : "memory");
}

}  // namespace simt

#else

#define SIMT_EMULATED 1
#include "device_api.h"

#endif
