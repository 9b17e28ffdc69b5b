// support_entropy of core/propose_candidates.h, compiled per instruction set for its exponentials.

#include "core/propose_candidates.h"
#include "cpu/isa.h"
#include "cpu/vec.h"

namespace s2t::cpu {

S2T_DECLARE_KERNEL(float support_entropy_kernel(const Key* sorted, int support);)

namespace S2T_CPU_ISA {

float support_entropy_kernel(const Key* sorted, int support) {
  const float best = key_logit(sorted[0]);
  if (!is_finite(best)) return 0.0f;
  float logits[kMaxCandidates];
  for (int i = 0; i < kMaxCandidates; ++i) {
    logits[i] = key_logit(i < support ? sorted[i] : kNoKey);
  }
  Vec weights[4], weighted[4];
  for (int v = 0; v < 4; ++v) {
    const Vec d = load(logits + v * kLanes) - Vec(best);
    weights[v] = exp_canonical(d);
    weighted[v] = add_weighted(Vec(0.0f), weights[v], d);
  }
  // Distance 32, 16, then inside the vector.
  const float s = tree_sum((weights[0] + weights[2]) + (weights[1] + weights[3]));
  const float t = tree_sum((weighted[0] + weighted[2]) + (weighted[1] + weighted[3]));
  return entropy_of_sums(s, t);
}

}  // namespace S2T_CPU_ISA
}  // namespace s2t::cpu
