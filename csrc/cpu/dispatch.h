#pragma once

// Which instruction set the CPU kernels run with.
//
// Chosen once, at first use: the best one that was compiled in and that this processor and
// operating system support; or the one named by the environment variable S2T_EXT_FORCE_CPU_ISA.
// Tests may override it. Results do not depend on it (contract 3 of csrc/README.md), only the time
// does.

#include <string>
#include <vector>

#include "cpu/isa.h"

namespace s2t::cpu {

// What was compiled in and can run here, worst first; never empty.
std::vector<Isa> usable_isas();

// The one kernels use now. Throws std::runtime_error if S2T_EXT_FORCE_CPU_ISA names none that can
// run here.
Isa active_isa();

// Use this one from now on, in all threads; an empty name returns to the choice described above.
// Throws std::invalid_argument for a name that is unknown or cannot run here.
void override_isa(const std::string& name);

// One function, compiled for several instruction sets; nullptr where it was not.
template <typename Function>
struct KernelTable {
  Function* variants[kNumIsas];

  Function* active() const { return variants[static_cast<int>(active_isa())]; }
};

}  // namespace s2t::cpu

#if defined(S2T_HAVE_AVX2)
#define S2T_AVX2_OR_NULL(name) avx2::name
#else
#define S2T_AVX2_OR_NULL(name) nullptr
#endif
#if defined(S2T_HAVE_AVX512)
#define S2T_AVX512_OR_NULL(name) avx512::name
#else
#define S2T_AVX512_OR_NULL(name) nullptr
#endif

// The initialiser of a KernelTable for a kernel declared with S2T_DECLARE_KERNEL.
#define S2T_KERNEL_TABLE(name)                                       \
  {                                                                  \
    {                                                                \
      scalar::name, S2T_AVX2_OR_NULL(name), S2T_AVX512_OR_NULL(name) \
    }                                                                \
  }
