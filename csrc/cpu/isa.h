#pragma once

// The instruction sets a kernel can be compiled for, in ascending order of preference.

#include <cstdint>

namespace s2t::cpu {

enum class Isa : int32_t { kScalar = 0, kAvx2 = 1, kAvx512 = 2 };

constexpr int kNumIsas = 3;

// As in S2T_EXT_FORCE_CPU_ISA and in the namespaces of the kernels.
constexpr const char* kIsaNames[kNumIsas] = {"scalar", "avx2", "avx512"};

constexpr const char* isa_name(Isa isa) { return kIsaNames[static_cast<int>(isa)]; }

}  // namespace s2t::cpu

// The build defines S2T_HAVE_AVX2, S2T_HAVE_AVX512 for what it compiles beside the scalar form.
#if defined(S2T_HAVE_AVX2)
#define S2T_IF_AVX2(...) __VA_ARGS__
#else
#define S2T_IF_AVX2(...)
#endif
#if defined(S2T_HAVE_AVX512)
#define S2T_IF_AVX512(...) __VA_ARGS__
#else
#define S2T_IF_AVX512(...)
#endif

// At namespace s2t::cpu: declares a kernel, e.g. S2T_DECLARE_KERNEL(void name(arguments);), in the
// namespace of every instruction set. Its definition sits in s2t::cpu::S2T_CPU_ISA of a
// `*_kernel.cpp`.
#define S2T_DECLARE_KERNEL(...)            \
  namespace scalar {                       \
  __VA_ARGS__                              \
  }                                        \
  S2T_IF_AVX2(namespace avx2{__VA_ARGS__}) \
  S2T_IF_AVX512(namespace avx512{__VA_ARGS__})
