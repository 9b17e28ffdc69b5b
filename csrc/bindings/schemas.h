#pragma once

// The schemas of the operators, for every library that declares them.

namespace s2t::bindings {

constexpr const char* kSchemas[] = {
    // Propose: the k best tokens of every row and the entropies that trigger a choice.
    "propose_candidates(Tensor logits, int k, int support, Tensor? blocked_ids) -> (Tensor ids, "
    "Tensor logits, Tensor logsumexp, Tensor support_entropy, Tensor full_entropy, Tensor "
    "status)",
    // Score: the expected bin value of hidden states after a candidate was appended.
    "score_candidates(Tensor hidden, Tensor rows, Tensor? bias, Tensor bin_values, "
    "float bin_temperature, float logit_scale, float? softcap) -> Tensor scores",
    // Select: the best-scored candidate of triggered rows, the ordinary token of the others.
    "select_token(Tensor ids, Tensor scores, Tensor triggered, Tensor default_token, "
    "Tensor finished, int pad_id, float score_temperature, Tensor seed, Tensor position) -> "
    "(Tensor token, Tensor slot)",
    // Both in one launch, with a prior on the candidates.
    "score_and_select(Tensor hidden, Tensor rows, Tensor? bias, Tensor bin_values, "
    "float bin_temperature, float logit_scale, float? softcap, Tensor ids, "
    "Tensor candidate_logprobs, float prior_weight, Tensor triggered, Tensor default_token, "
    "Tensor finished, int pad_id, float score_temperature, Tensor seed, Tensor position, "
    "float override_margin=0.0) -> (Tensor token, Tensor slot, Tensor scores, Tensor refused)",
    // Sample: the ordinary next token of every row.
    "sample_token(Tensor logits, Tensor temperature, Tensor top_k, Tensor top_p, Tensor min_p, "
    "Tensor seed, Tensor position, Tensor? blocked_ids) -> (Tensor token, Tensor logprob)",
    // Commit: moves the winner's key/value entry to where the prefix ends.
    "commit_candidates(Tensor(a!)[] keys, Tensor(b!)[] values, Tensor slot, Tensor start, int k) "
    "-> ()",
    // Copy: whole blocks of paged caches, in all layers.
    "copy_blocks(Tensor(a!)[] caches, Tensor source, Tensor target) -> ()",
    // KL(student || teacher) on the student's support, and the teacher's view of candidates.
    "support_kl(Tensor student_ids, Tensor student_logits, Tensor teacher_logits, "
    "Tensor candidate_ids) -> (Tensor kl, Tensor candidate_logprobs, Tensor teacher_argmax)",
    // A uniform number in [0, 1) per row, for decisions that no other operator makes.
    "random_uniform(Tensor seed, Tensor position, int purpose) -> Tensor uniform",
};

}  // namespace s2t::bindings
