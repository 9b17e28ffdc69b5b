// KL of one row (core/support_kl.h), compiled per instruction set for its exponentials.

#include "core/support_kl.h"
#include "cpu/isa.h"
#include "cpu/vec.h"

namespace s2t::cpu {

S2T_DECLARE_KERNEL(float support_kl_kernel(const float* student, const float* teacher, int count);)

namespace S2T_CPU_ISA {

float support_kl_kernel(const float* student, const float* teacher, int count) {
  const SupportSide p = support_side(student, count), q = support_side(teacher, count);
  if (p.first < 0) return 0.0f;
  float p_difference[kMaxCandidates], q_difference[kMaxCandidates];
  for (int i = 0; i < kMaxCandidates; ++i) {
    const bool is_place = i < count;
    p_difference[i] = is_place ? support_difference(p, student[i], i) : negative_infinity();
    q_difference[i] = is_place ? support_difference(q, teacher[i], i) : negative_infinity();
  }
  float p_weight[kMaxCandidates], q_weight[kMaxCandidates];
  for (int i = 0; i < kMaxCandidates; i += kLanes) {
    store(p_weight + i, exp_canonical(load(p_difference + i)));
    store(q_weight + i, exp_canonical(load(q_difference + i)));
  }
  return support_kl_of_terms(p_difference, q_difference, p_weight, q_weight);
}

}  // namespace S2T_CPU_ISA
}  // namespace s2t::cpu
