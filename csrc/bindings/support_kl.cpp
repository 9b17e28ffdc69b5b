#include "core/support_kl.h"

#include <tuple>

#include "bindings/call.h"
#include "bindings/logits_arguments.h"

namespace s2t::bindings {
namespace {

constexpr const char* kOp = "support_kl";

// Shape [batch, 1..64], dtype and, where the host can look, values. On a device an id outside of
// the vocabulary counts as an empty place.
void check_ids(const char* argument, const Tensor& ids, const char* text, const Tensor& teacher) {
  check_rank(kOp, argument, ids, 2, text);
  check_dtype(kOp, argument, ids, {Dtype::Long});
  check_device(kOp, argument, ids, teacher, "teacher_logits");
  const int64_t columns = ids.size(1), vocab = teacher.size(1);
  check_shape(kOp, argument, ids, {teacher.size(0), columns}, text);
  if (columns < 1 || columns > kMaxCandidates) {
    fail(kOp, argument, "have 1 to " + std::to_string(kMaxCandidates) + " columns",
         std::to_string(columns));
  }
  if (!Call::kReadsValues) return;
  const Tensor contiguous = as_contiguous(ids);
  for (int64_t i = 0; i < ids.numel(); ++i) {
    const int64_t id = data<int64_t>(contiguous)[i];
    if (id < -1 || id >= vocab) {
      fail(kOp, argument, "be -1 or in [0, vocab) = [0, " + std::to_string(vocab) + ")",
           std::to_string(id));
    }
  }
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> support_kl(const Tensor& student_ids,
                                              const Tensor& student_logits,
                                              const Tensor& teacher_logits,
                                              const Tensor& candidate_ids) {
  check_logits(kOp, "teacher_logits", teacher_logits);
  check_ids("student_ids", student_ids, "[batch, support]", teacher_logits);
  check_ids("candidate_ids", candidate_ids, "[batch, k]", teacher_logits);
  check_dtype(kOp, "student_logits", student_logits, {Dtype::Float});
  check_shape(kOp, "student_logits", student_logits, {student_ids.size(0), student_ids.size(1)},
              "[batch, support]");
  check_device(kOp, "student_logits", student_logits, teacher_logits, "teacher_logits");

  Call call(kOp, teacher_logits);
  const Tensor teacher = call.rows(teacher_logits, "teacher_logits");
  const int64_t batch = teacher.size(0), k = candidate_ids.size(1);
  const Tensor kl = call.result({batch}, Dtype::Float, "kl");
  const Tensor candidate_logprobs = call.result({batch, k}, Dtype::Float, "candidate_logprobs");
  const Tensor teacher_argmax = call.result({batch}, Dtype::Long, "teacher_argmax");

  SupportKLParams params = {};
  set_logits(params, teacher);
  params.student_ids = call.values<int64_t>(student_ids, "student_ids");
  params.student_logits = call.values<float>(student_logits, "student_logits");
  params.candidate_ids = call.values<int64_t>(candidate_ids, "candidate_ids");
  params.support = static_cast<int32_t>(student_ids.size(1));
  params.k = static_cast<int32_t>(k);
  params.kl = mutable_data<float>(kl);
  params.candidate_logprobs = mutable_data<float>(candidate_logprobs);
  params.teacher_argmax = mutable_data<int64_t>(teacher_argmax);
  call.run(params);
  return {kl, candidate_logprobs, teacher_argmax};
}

}  // namespace s2t::bindings

S2T_REGISTER(support_kl)
