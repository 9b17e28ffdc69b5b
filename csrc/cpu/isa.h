#pragma once

// The instruction sets a kernel can be compiled for, in ascending order of preference.

#include <cstdint>

namespace s2t::cpu {

enum class Isa : int32_t { kScalar = 0, kNeon = 1, kAvx2 = 2, kAvx512 = 3 };

constexpr int kNumIsas = 4;

// As in S2T_FORCE_CPU_ISA and in the namespaces of the kernels.
constexpr const char* kIsaNames[kNumIsas] = {"scalar", "neon", "avx2", "avx512"};

constexpr const char* isa_name(Isa isa) { return kIsaNames[static_cast<int>(isa)]; }

}  // namespace s2t::cpu
