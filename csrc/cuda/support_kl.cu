// KL(student || teacher) on the student's support, the teacher's log-probabilities of the
// candidates, and its best token: one read of the teacher's logits, as in propose_candidates.cu
// with one key wanted; the last block of a row then gathers the at most 64 + 64 logits it needs.
//
// An id outside of the vocabulary counts as an empty place: nothing is read for it.
#include "launch_helpers.h"
#include "launchers.h"
#include "row_merge.cuh"

namespace s2t::cuda {
namespace {

constexpr int kWanted = 1;

// ---- device code -------------------------------------------------------------------------------

SIMT_DEVICE RowSource source_of(const SupportKLParams& p) {
  return {p.teacher_logits, p.row_stride, p.vocab, nullptr, 0};
}

template <class T>
SIMT_DEVICE float teacher_logit(const T* teacher, int64_t vocab, int64_t id) {
  return id >= 0 && id < vocab ? without_nan(to_float(teacher[id])) : negative_infinity();
}

// support_side() of core/support_kl.h, by one warp; lane l has places l and l + 32.
SIMT_DEVICE SupportSide warp_support_side(const float (&logits)[2]) {
  const auto lane = static_cast<uint32_t>(lane_id());
  const Key low = make_key(logits[0], lane), high = make_key(logits[1], lane + kWarpSize);
  const Key best = warp_max(low > high ? low : high);
  return {key_logit(best), static_cast<int>(key_id(best))};
}

// support_kl_row() of core/support_kl.h, by one warp. -inf in places that are not there.
SIMT_DEVICE float warp_support_kl(const float (&student)[2], const float (&teacher)[2]) {
  const SupportSide p = warp_support_side(student), q = warp_support_side(teacher);
  double p_sum[2], q_sum[2], cross[2];
  bool is_infinite = false;
  SIMT_UNROLL
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
SIMT_DEVICE void write_row(const SupportKLParams& p, int64_t row, const RowStats& stats, Key best) {
  const T* teacher = row_of<T>(source_of(p), row);
  float student_logits[2], teacher_logits[2];
  SIMT_UNROLL
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
SIMT_DEVICE void merge_and_write(const SupportKLParams& p,
                                 const RowWorkspace& workspace,
                                 RowPart part,
                                 KeySelection<kRowThreads>& selection) {
  merge_row_keys(workspace, part, kWanted, selection);
  if (warp_id() != 0) return;
  const int64_t chunks = chunk_count(p.vocab);
  const RowStats stats = merge_row_stats(workspace.stats + part.row * chunks, chunks);
  write_row<T>(p, part.row, stats, selection.kept[0]);
}

template <class T>
SIMT_KERNEL void __launch_bounds__(kRowThreads)
    support_kl_kernel(SupportKLParams p, RowWorkspace workspace) {
  SIMT_SHARED(KeySelection<kRowThreads>, selection);
  SIMT_SHARED(bool, is_last);
  const RowPart part = row_part();
  scan_row_part<T>(source_of(p), part, kWanted, workspace, selection);
  if (arrives_last(workspace, part, is_last)) merge_and_write<T>(p, workspace, part, selection);
}

// The same in two launches.
template <class T>
SIMT_KERNEL void __launch_bounds__(kRowThreads)
    support_kl_scan_kernel(SupportKLParams p, RowWorkspace workspace) {
  SIMT_SHARED(KeySelection<kRowThreads>, selection);
  scan_row_part<T>(source_of(p), row_part(), kWanted, workspace, selection);
}

template <class T>
SIMT_KERNEL void __launch_bounds__(kRowThreads)
    support_kl_merge_kernel(SupportKLParams p, RowWorkspace workspace, int blocks) {
  SIMT_SHARED(KeySelection<kRowThreads>, selection);
  merge_and_write<T>(p, workspace, {static_cast<int64_t>(blockIdx.y), 0, blocks}, selection);
}

// ---- launcher ----------------------------------------------------------------------------------

template <class T>
simt::error_t launch(const SupportKLParams& p,
                     const RowWorkspace& workspace,
                     int blocks,
                     bool two_launches,
                     simt::stream_t stream) {
  const dim3 scan_grid(static_cast<unsigned>(blocks), static_cast<unsigned>(p.batch));
  if (!two_launches)
    return simt::launch("support_kl", support_kl_kernel<T>, scan_grid, dim3(kRowThreads), 0, stream,
                        p, workspace);
  const simt::error_t status = simt::launch("support_kl_scan", support_kl_scan_kernel<T>, scan_grid,
                                            dim3(kRowThreads), 0, stream, p, workspace);
  if (status != simt::kSuccess) return status;
  return simt::launch("support_kl_merge", support_kl_merge_kernel<T>,
                      dim3(1, static_cast<unsigned>(p.batch)), dim3(kRowThreads), 0, stream, p,
                      workspace, blocks);
}

}  // namespace

simt::error_t launch_support_kl(const SupportKLParams& params,
                                const RowWorkspace& workspace,
                                const RowSplit& split,
                                simt::stream_t stream) {
  const int blocks = resolve_blocks(split, params.batch, params.vocab);
  return for_each_slice(params.batch, [&](int64_t first, int64_t count) {
    SupportKLParams p = params;
    p.batch = count;
    p.student_ids += first * params.support;
    p.student_logits += first * params.support;
    p.teacher_logits =
        advance_elements(params.teacher_logits, params.logits_type, first * params.row_stride);
    p.candidate_ids += first * params.k;
    p.kl += first;
    p.candidate_logprobs += first * params.k;
    p.teacher_argmax += first;
    const RowWorkspace slice = workspace.from_row(first, params.vocab, blocks);
    return by_type(p.logits_type, [&](auto tag) {
      return launch<typename decltype(tag)::type>(p, slice, blocks, split.two_launches, stream);
    });
  });
}

}  // namespace s2t::cuda
