// KL(student || teacher) on the student's support, the teacher's log-probabilities of the
// candidates and its best token: one scan of the teacher's logits (row_scan.h), then gathers of up
// to 128 of them.

#include "cpu/support_kl.h"

#include "cpu/dispatch.h"
#include "cpu/row_scan.h"

namespace s2t::cpu {

S2T_DECLARE_KERNEL(float support_kl_kernel(const float* student, const float* teacher, int count);)

namespace {

constexpr KernelTable<float(const float*, const float*, int)> kSupportKL =
    S2T_KERNEL_TABLE(support_kl_kernel);

LogitsView teacher_view(const SupportKLParams& params) {
  return LogitsView{params.logits, params.logits_type, params.batch, params.vocab,
                    params.row_stride};
}

void write_row(const SupportKLParams& params, int64_t row, const ScannedRow& scanned) {
  const void* logits = row_pointer(teacher_view(params), row);
  float student[kMaxCandidates], teacher[kMaxCandidates];
  for (int i = 0; i < params.support; ++i) {
    const int64_t place = row * params.support + i, id = params.student_ids[place];
    const bool is_empty = id < 0;
    student[i] = is_empty ? negative_infinity() : without_nan(params.student_logits[place]);
    teacher[i] =
        is_empty ? negative_infinity() : without_nan(logit_at(logits, params.logits_type, id));
  }
  params.kl[row] = kSupportKL.active()(student, teacher, params.support);
  for (int i = 0; i < params.k; ++i) {
    const int64_t id = params.candidate_ids[row * params.k + i];
    const Key key =
        id < 0 ? kNoKey
               : make_key(logit_at(logits, params.logits_type, id), static_cast<uint32_t>(id));
    params.candidate_logprobs[row * params.k + i] =
        row_logprob(scanned.stats, key, scanned.best[0]);
  }
  params.teacher_argmax[row] = key_id(scanned.best[0]);
}

}  // namespace

void support_kl(const SupportKLParams& params, const Parallel& parallel) {
  const BlockedIds none = sorted_blocked_ids(nullptr, 0);
  scan_rows(
      parallel, teacher_view(params), none, [](int64_t) { return ScanRequest{1, false, 1.0f}; },
      [&](int64_t row, const ScannedRow& scanned) { write_row(params, row, scanned); });
}

}  // namespace s2t::cpu
