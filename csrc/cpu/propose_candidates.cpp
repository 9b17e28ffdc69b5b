// Keeps the k best tokens of every row with log-sum-exp, support entropy and full entropy: one scan
// of the logits (row_scan.h), then what remains is work on 64 keys and a few statistics a row.

#include "cpu/propose_candidates.h"

#include "cpu/dispatch.h"
#include "cpu/row_scan.h"

namespace s2t::cpu {

S2T_DECLARE_KERNEL(float support_entropy_kernel(const Key* sorted, int support);)

namespace {

constexpr KernelTable<float(const Key*, int)> kSupportEntropy =
    S2T_KERNEL_TABLE(support_entropy_kernel);

void write_row(const ProposeCandidatesParams& params, int64_t row, const ScannedRow& scanned) {
  for (int i = 0; i < params.k; ++i) {
    params.ids[row * params.k + i] = key_id(scanned.best[i]);
    params.candidate_logits[row * params.k + i] = key_logit(scanned.best[i]);
  }
  params.logsumexp[row] = row_logsumexp(scanned.stats);
  params.full_entropy[row] = row_entropy(scanned.stats);
  params.support_entropy[row] = params.support == 0
                                    ? params.full_entropy[row]
                                    : kSupportEntropy.active()(scanned.best, params.support);
  params.status[row] = propose_status(scanned.best, params.k, scanned.has_nan);
}

}  // namespace

void propose_candidates(const ProposeCandidatesParams& params, const Parallel& parallel) {
  const LogitsView logits = {params.logits, params.logits_type, params.batch, params.vocab,
                             params.row_stride};
  const BlockedIds blocked = sorted_blocked_ids(params.blocked_ids, params.num_blocked);
  const ScanRequest request = {selection_size(params.k, params.support), true, 1.0f};
  scan_rows(
      parallel, logits, blocked, [&](int64_t) { return request; },
      [&](int64_t row, const ScannedRow& scanned) { write_row(params, row, scanned); });
}

}  // namespace s2t::cpu
