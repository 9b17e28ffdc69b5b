#include <tuple>

#include "bindings/logits_checks.h"
#include "bindings/parallel_cpu.h"
#include "cpu/support_kl.h"

namespace s2t::bindings {
namespace {

constexpr const char* kOp = "support_kl";

// Shape [batch, 1..64] and dtype.
void check_ids(const char* argument, const Tensor& ids, const char* text, const Tensor& teacher) {
  check_rank(kOp, argument, ids, 2, text);
  check_dtype(kOp, argument, ids, {Dtype::Long});
  check_device(kOp, argument, ids, teacher, "teacher_logits");
  const int64_t columns = ids.size(1);
  check_shape(kOp, argument, ids, {teacher.size(0), columns}, text);
  if (columns < 1 || columns > kMaxCandidates) {
    fail(kOp, argument, "have 1 to " + std::to_string(kMaxCandidates) + " columns",
         std::to_string(columns));
  }
}

void check_values(const char* argument, const Tensor& ids, int64_t vocab) {
  const int64_t* values = data<int64_t>(ids);
  for (int64_t i = 0; i < ids.numel(); ++i) {
    if (values[i] < -1 || values[i] >= vocab) {
      fail(kOp, argument, "be -1 or in [0, vocab) = [0, " + std::to_string(vocab) + ")",
           std::to_string(values[i]));
    }
  }
}

std::tuple<Tensor, Tensor, Tensor> support_kl_cpu(const Tensor& student_ids,
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

  const Tensor teacher = with_unit_last_stride(teacher_logits);
  const Tensor support = as_contiguous(student_ids), student = as_contiguous(student_logits);
  const Tensor candidates = as_contiguous(candidate_ids);
  check_values("student_ids", support, teacher.size(1));
  check_values("candidate_ids", candidates, teacher.size(1));
  const int64_t batch = teacher.size(0), k = candidates.size(1);
  const Tensor kl = new_tensor({batch}, Dtype::Float, teacher);
  const Tensor candidate_logprobs = new_tensor({batch, k}, Dtype::Float, teacher);
  const Tensor teacher_argmax = new_tensor({batch}, Dtype::Long, teacher);

  SupportKLParams params = {};
  params.student_ids = data<int64_t>(support);
  params.student_logits = data<float>(student);
  params.teacher_logits = teacher.const_data_ptr();
  params.candidate_ids = data<int64_t>(candidates);
  params.logits_type = scalar_type(teacher);
  params.batch = batch;
  params.vocab = teacher.size(1);
  params.row_stride = teacher.stride(0);
  params.support = static_cast<int32_t>(support.size(1));
  params.k = static_cast<int32_t>(k);
  params.kl = mutable_data<float>(kl);
  params.candidate_logprobs = mutable_data<float>(candidate_logprobs);
  params.teacher_argmax = mutable_data<int64_t>(teacher_argmax);
  cpu::support_kl(params, torch_parallel());
  return {kl, candidate_logprobs, teacher_argmax};
}

}  // namespace
}  // namespace s2t::bindings

STABLE_TORCH_LIBRARY_IMPL(s2t_ext, CPU, m) {
  m.impl("support_kl", TORCH_BOX(&s2t::bindings::support_kl_cpu));
}
