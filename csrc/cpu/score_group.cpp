#include "cpu/score_group.h"

#include "cpu/dispatch.h"

namespace s2t::cpu {

S2T_DECLARE_KERNEL(ScoreGroup score_group_kernel;)

PaddedHead pad(const ScoreHead& head) {
  PaddedHead padded = {head, {}, {}};
  for (int r = 0; r < head.num_bins; ++r) {
    padded.bin_values[r] = head.bin_values[r];
    if (head.bias) padded.bias[r] = element(head.bias, head.bias_type, r);
  }
  return padded;
}

ScoreGroup* score_group() {
  static constexpr KernelTable<ScoreGroup> kTable = S2T_KERNEL_TABLE(score_group_kernel);
  return kTable.active();
}

}  // namespace s2t::cpu
