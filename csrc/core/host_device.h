#pragma once

// S2T_HOST_DEVICE marks every function of core/. It forces inlining for two reasons: under nvcc the
// function becomes callable from device code, and in a C++ file compiled for one instruction set no
// out-of-line copy is emitted that the linker could choose for the others.

#if defined(__CUDACC__)
#define S2T_HOST_DEVICE __host__ __device__ __forceinline__
#elif defined(_MSC_VER)
#define S2T_HOST_DEVICE __forceinline
#else
#define S2T_HOST_DEVICE inline __attribute__((always_inline))
#endif

#include <cstdint>
#include <cstring>

namespace s2t {

S2T_HOST_DEVICE uint32_t float_bits(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
#endif
}

S2T_HOST_DEVICE float bits_float(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
#endif
}

S2T_HOST_DEVICE uint64_t double_bits(double value) {
#if defined(__CUDA_ARCH__)
  return static_cast<uint64_t>(__double_as_longlong(value));
#else
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
#endif
}

S2T_HOST_DEVICE double bits_double(uint64_t bits) {
#if defined(__CUDA_ARCH__)
  return __longlong_as_double(static_cast<long long>(bits));
#else
  double value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
#endif
}

S2T_HOST_DEVICE float positive_infinity() { return bits_float(0x7F800000u); }
S2T_HOST_DEVICE float negative_infinity() { return bits_float(0xFF800000u); }

}  // namespace s2t
