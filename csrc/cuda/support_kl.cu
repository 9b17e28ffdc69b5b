// KL(student || teacher) on the student's support, the teacher's log-probabilities of the
// candidates, and its best token: one read of the teacher's logits, as in propose_candidates.cu
// with one key wanted; the last block of a row then gathers the at most 64 + 64 logits it needs.
//
// An id outside of the vocabulary counts as an empty place: nothing is read for it.
#include "launchers.h"
#include "row_operator.cuh"

namespace s2t::cuda {
namespace {

S2T_DEVICE RowSource source_of(const SupportKLParams& p) {
  return {p.logits, p.row_stride, p.vocab, nullptr, 0};
}

template <class T>
S2T_DEVICE float teacher_logit(const T* teacher, int64_t vocab, int64_t id) {
  return id >= 0 && id < vocab ? without_nan(to_float(teacher[id])) : negative_infinity();
}

// support_side() of core/support_kl.h, by one warp; lane l has places l and l + 32.
S2T_DEVICE SupportSide warp_support_side(const float (&logits)[2]) {
  const auto lane = static_cast<uint32_t>(lane_id());
  const Key low = make_key(logits[0], lane), high = make_key(logits[1], lane + kWarpSize);
  const Key best = warp_max(low > high ? low : high);
  return {key_logit(best), static_cast<int>(key_id(best))};
}

// support_kl_row() of core/support_kl.h, by one warp. -inf in places that are not there.
S2T_DEVICE float warp_support_kl(const float (&student)[2], const float (&teacher)[2]) {
  const SupportSide p = warp_support_side(student), q = warp_support_side(teacher);
  double p_sum[2], q_sum[2], cross[2];
  bool is_infinite = false;
  S2T_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int place = lane_id() + half * kWarpSize;
    const float p_d = support_difference(p, student[half], place);
    const float q_d = support_difference(q, teacher[half], place);
    const float weight = exp_canonical(p_d);
    is_infinite = is_infinite || (weight > 0.0f && !(q_d > negative_infinity()));
    p_sum[half] = static_cast<double>(weight);
    q_sum[half] = static_cast<double>(exp_canonical(q_d));
    cross[half] = weight > 0.0f ? static_cast<double>(weight) *
                                      (static_cast<double>(p_d) - static_cast<double>(q_d))
                                : 0.0;
  }
  const double s = warp_tree_sum(p_sum[0] + p_sum[1]);
  const double q_total = warp_tree_sum(q_sum[0] + q_sum[1]);
  const double weighted = warp_tree_sum(cross[0] + cross[1]);
  if (__any_sync(kAllLanes, is_infinite)) return p.first < 0 ? 0.0f : positive_infinity();
  if (p.first < 0) return 0.0f;
  const double kl = weighted / s - log_canonical(s) + log_canonical(q_total);
  return static_cast<float>(kl > 0.0 ? kl : 0.0);
}

template <class T>
S2T_DEVICE void write_row(const SupportKLParams& p, int64_t row, const RowStats& stats, Key best) {
  const T* teacher = row_of<T>(source_of(p), row);
  float student_logits[2], teacher_logits[2];
  S2T_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int place = lane_id() + half * kWarpSize;
    student_logits[half] = teacher_logits[half] = negative_infinity();
    if (place >= p.support) continue;
    const int64_t id = p.student_ids[row * p.support + place];
    if (id < 0 || id >= p.vocab) continue;
    student_logits[half] = without_nan(p.student_logits[row * p.support + place]);
    teacher_logits[half] = teacher_logit(teacher, p.vocab, id);
  }
  const float kl = warp_support_kl(student_logits, teacher_logits);
  for (int i = lane_id(); i < p.k; i += kWarpSize) {
    const int64_t id = p.candidate_ids[row * p.k + i];
    const Key key = make_key(teacher_logit(teacher, p.vocab, id), static_cast<uint32_t>(id));
    p.candidate_logprobs[row * p.k + i] = row_logprob(stats, key, best);
  }
  if (lane_id() != 0) return;
  p.kl[row] = kl;
  p.teacher_argmax[row] = key_id(best);
}

template <class T>
S2T_KERNEL void __launch_bounds__(kRowThreads)
    support_kl_kernel(SupportKLParams p, RowWorkspace workspace) {
  run_row_operator<T>(source_of(p), /*wanted=*/1, workspace,
                      [&](int64_t row, const RowStats& stats, const Key* sorted, bool) {
                        write_row<T>(p, row, stats, sorted[0]);
                      });
}

SupportKLParams rows_from(const SupportKLParams& params, int64_t first) {
  SupportKLParams p = params;
  p.student_ids += first * params.support;
  p.student_logits += first * params.support;
  p.logits = advance_elements(params.logits, params.logits_type, first * params.row_stride);
  p.candidate_ids += first * params.k;
  p.kl += first;
  p.candidate_logprobs += first * params.k;
  p.teacher_argmax += first;
  return p;
}

}  // namespace

cudaError_t launch_support_kl(const SupportKLParams& params,
                              const RowWorkspace& workspace,
                              cudaStream_t stream) {
  return launch_row_operator<kRowThreads>(
      "support_kl", params, workspace, stream, rows_from,
      [](auto tag) { return support_kl_kernel<typename decltype(tag)::type>; });
}

}  // namespace s2t::cuda
