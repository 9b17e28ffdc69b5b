#pragma once

// Vec: sixteen floats, for kernels written once and compiled per instruction set.
//
// Only for `*_kernel.cpp`, which the build compiles once per instruction set with
// S2T_CPU_ISA=<name>. One vec_*.h gives the type: a 512-bit register, two of 256 bits, or a plain
// array that the compiler may vectorise. All three do the same roundings in the same order.
//
// Everything here and in the kernels is in s2t::cpu::<isa> and in an unnamed namespace, or forced
// inline. A function the linker could share between files compiled with different flags might be
// kept in its AVX-512 form for all of them, and crash on older processors. For the same reason
// kernels use no function templates of the standard library.
//
//   Vec(x)                      broadcast
//   load(p), store(p, v)        float*, BFloat16*, Float16*; any alignment
//   a + b, a - b, a * b, fma_canonical(a, b, c)
//   max_ignoring_nan(x, acc)    acc where x is NaN
//   max_lane(v), tree_sum(v)    over the lanes; the sum with distance 8, 4, 2, 1
//   mask_at_least(a, b)         bit i: a[i] >= b[i] (false for NaN)
//   nan_mask(a, b)              bit i: a NaN in a[i] or b[i]
//   zero_unless(mask, v)        v in the lanes of the mask, 0 in the others
//   exp_canonical(d), exp_in_range(d), at_least_cutoff(d), add_weighted(total, weight, d)
//                               as in core/canonical_math.h
//   chunk_tree_sum(Vec[16])     as there, partial p in lane p % 16 of vector p / 16

#include "core/canonical_math.h"
#include "core/float16.h"

#define S2T_ISA_NUMBER_scalar 1
#define S2T_ISA_NUMBER_avx2 2
#define S2T_ISA_NUMBER_avx512 3
#define S2T_PASTE_(a, b) a##b
#define S2T_PASTE(a, b) S2T_PASTE_(a, b)
#define S2T_ISA_NUMBER S2T_PASTE(S2T_ISA_NUMBER_, S2T_CPU_ISA)

#if !defined(S2T_CPU_ISA)
#error "compile this file once per instruction set, with -DS2T_CPU_ISA=scalar|avx2|avx512"
#elif S2T_ISA_NUMBER == S2T_ISA_NUMBER_avx512
#include "cpu/vec_avx512.h"
#elif S2T_ISA_NUMBER == S2T_ISA_NUMBER_avx2
#include "cpu/vec_avx2.h"
#else
#include "cpu/vec_array.h"
#endif

namespace s2t::cpu::S2T_CPU_ISA {
namespace {

constexpr int kLanes = 16;
constexpr int kAllLanes = 0xFFFF;

// The first `count` (0..16) elements; `fill` in the other lanes.
template <typename Element>
S2T_HOST_DEVICE Vec load_first(const Element* source, int64_t count, float fill) {
  float lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = i < count ? to_float(source[i]) : fill;
  return load(lanes);
}

}  // namespace
}  // namespace s2t::cpu::S2T_CPU_ISA
