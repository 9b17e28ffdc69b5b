"""What to change in good arguments, and the message that must come (test_op_errors.py)."""

import math

import torch
from cache_error_cases import CASES_OF_CACHES
from op_arguments import f64, i32, i64, zeros

HALVES = "float32, bfloat16 or float16"
MARGIN = "override_margin must be at least 0 and finite"


def logits_cases(argument, op):
    rows = "[batch, vocab]"
    return [
        (op, {argument: zeros(100)}, f"{argument} must have 2 dimensions {rows}, got [100]"),
        (op, {argument: zeros(2, 100, dtype=f64)}, f"{argument} must be {HALVES}, got float64"),
        (op, {argument: zeros(2, 100, dtype=i64)}, f"{argument} must be {HALVES}, got int64"),
        (op, {argument: zeros(2, 0)}, f"{argument} must have at least one column, got 0"),
    ]


def blocked_cases(op):
    name, in_vocab = "blocked_ids", "blocked_ids must be in [0, vocab) = [0, 100)"
    too_many = zeros(65, dtype=i64)
    return [
        (op, {name: too_many[None]}, f"{name} must have 1 dimensions [num_blocked], got [1, 65]"),
        (op, {name: zeros(3)}, f"{name} must be int64, got float32"),
        (op, {name: too_many}, f"{name} must have at most 64 ids, got 65"),
        (op, {name: torch.tensor([4, -1])}, f"{in_vocab}, got -1"),
        (op, {name: torch.tensor([4, 100])}, f"{in_vocab}, got 100"),
    ]


def head_cases(op):
    shape = "[num_bins, hidden_size] = [16, 32]"
    positive = "must be positive and finite"
    return [
        (op, {"rows": zeros(16)}, "rows must have 2 dimensions [num_bins, hidden_size], got [16]"),
        (op, {"rows": zeros(16, 32, dtype=f64)}, f"rows must be {HALVES}, got float64"),
        (op, {"rows": zeros(0, 32)}, "rows must have 1 to 64 rows, got 0"),
        (op, {"rows": zeros(65, 32)}, "rows must have 1 to 64 rows, got 65"),
        (op, {"rows": zeros(16, 31)}, f"rows must have shape {shape}, got [16, 31]"),
        (op, {"bias": zeros(16, dtype=f64)}, f"bias must be {HALVES}, got float64"),
        (op, {"bias": zeros(15)}, "bias must have shape [num_bins] = [16], got [15]"),
        (op, {"bin_values": zeros(16, dtype=f64)}, "bin_values must be float32, got float64"),
        (op, {"bin_values": zeros(3)}, "bin_values must have shape [num_bins] = [16], got [3]"),
        (op, {"bin_temperature": 0.0}, f"bin_temperature {positive}, got 0.0"),
        (op, {"bin_temperature": -2.5}, f"bin_temperature {positive}, got -2.5"),
        (op, {"bin_temperature": math.nan}, f"bin_temperature {positive}, got nan"),
        (op, {"logit_scale": math.inf}, "logit_scale must be finite, got inf"),
        (op, {"softcap": 0.0}, f"softcap {positive}, got 0.0"),
        (op, {"softcap": -math.inf}, f"softcap {positive}, got -inf"),
        (op, {"softcap": -1e-20}, f"softcap {positive}, got -1e-20"),
        (op, {"softcap": -12345678.0}, f"softcap {positive}, got -12345678.0"),
    ]


def row_cases(op):
    per_row = [
        ("triggered", torch.bool, "bool", zeros(2), "float32"),
        ("default_token", i64, "int64", zeros(2, dtype=i32), "int32"),
        ("finished", torch.bool, "bool", zeros(2, dtype=torch.uint8), "uint8"),
    ]
    cases = [
        (op, {"ids": zeros(2, 8, dtype=i32)}, "ids must be int64, got int32"),
        (op, {"ids": zeros(16, dtype=i64)}, "ids must have 2 dimensions [batch, k], got [16]"),
        (
            op,
            {"score_temperature": -1.0},
            "score_temperature must be at least 0 and finite, got -1.0",
        ),
        (
            op,
            {"score_temperature": math.nan},
            "score_temperature must be at least 0 and finite, got nan",
        ),
        (
            op,
            {"score_temperature": 1.0},
            "seed must be given when score_temperature > 0, got None",
        ),
        (
            op,
            {"score_temperature": 1.0, "seed": zeros(2, dtype=i64)},
            "position must be given when score_temperature > 0, got None",
        ),
        (
            op,
            {"score_temperature": 1.0, "seed": zeros(3, dtype=i64), "position": zeros(2)},
            "seed must have shape [batch] = [2], got [3]",
        ),
        (
            op,
            {"score_temperature": 1.0, "seed": zeros(2, dtype=i64), "position": zeros(2)},
            "position must be int64, got float32",
        ),
    ]
    for name, dtype, dtype_name, wrong, wrong_name in per_row:
        cases.append((op, {name: wrong}, f"{name} must be {dtype_name}, got {wrong_name}"))
        shape = f"{name} must have shape [batch] = [2], got"
        cases.append((op, {name: zeros(3, dtype=dtype)}, f"{shape} [3]"))
        cases.append((op, {name: zeros(2, 1, dtype=dtype)}, f"{shape} [2, 1]"))
    return cases


def sampling_cases(op):
    cases = []
    for name in ("temperature", "top_p", "min_p"):
        cases.append((op, {name: zeros(2, dtype=f64)}, f"{name} must be float32, got float64"))
        shape = f"{name} must have shape [batch] = [2], got [1]"
        cases.append((op, {name: zeros(1)}, shape))
    for name in ("top_k", "seed", "position"):
        cases.append((op, {name: zeros(2)}, f"{name} must be int64, got float32"))
        shape = f"{name} must have shape [batch] = [2], got [3]"
        cases.append((op, {name: zeros(3, dtype=i64)}, shape))
    return cases


def id_cases(op):
    cases = []
    for name, text in (("student_ids", "[batch, support]"), ("candidate_ids", "[batch, k]")):
        in_vocab = f"{name} must be -1 or in [0, vocab) = [0, 100), got"
        wide, wrong = zeros(2, 65, dtype=i64), zeros(2, 8, dtype=i64)
        wrong[1, 3] = 100
        below = torch.full_like(wrong, -2)
        cases += [
            (op, {name: zeros(8, dtype=i64)}, f"{name} must have 2 dimensions {text}, got [8]"),
            (op, {name: zeros(2, 8)}, f"{name} must be int64, got float32"),
            (
                op,
                {name: zeros(3, 8, dtype=i64)},
                f"{name} must have shape {text} = [2, 8], got [3, 8]",
            ),
            (op, {name: wide}, f"{name} must have 1 to 64 columns, got 65"),
            (op, {name: wide[:, :0]}, f"{name} must have 1 to 64 columns, got 0"),
            (op, {name: wrong, "student_logits": zeros(2, 8)}, f"{in_vocab} 100"),
            (op, {name: below, "student_logits": zeros(2, 8)}, f"{in_vocab} -2"),
        ]
    # `student_logits` follows the ids it belongs to.
    return [
        (op, {"student_ids": zeros(2, 8, dtype=i64), **changes}, message)
        if "candidate_ids" in changes and "student_logits" in changes
        else (op, changes, message)
        for op, changes, message in cases
    ]


CASES = [
    *logits_cases("logits", "propose_candidates"),
    *blocked_cases("propose_candidates"),
    ("propose_candidates", {"k": 0}, "k must be in [1, 64], got 0"),
    ("propose_candidates", {"k": 65}, "k must be in [1, 64], got 65"),
    ("propose_candidates", {"support": 7}, "support must be 0 or in [k, 64], got 7"),
    ("propose_candidates", {"support": 65}, "support must be 0 or in [k, 64], got 65"),
    ("propose_candidates", {"support": -1}, "support must be 0 or in [k, 64], got -1"),
    (
        "score_candidates",
        {"hidden": zeros(1, 3, 32)},
        "hidden must have 2 dimensions [num_candidates, hidden_size], got [1, 3, 32]",
    ),
    (
        "score_candidates",
        {"hidden": zeros(3, 32, dtype=i64)},
        f"hidden must be {HALVES}, got int64",
    ),
    *head_cases("score_candidates"),
    *row_cases("select_token"),
    ("select_token", {"scores": zeros(2, 8, dtype=f64)}, "scores must be float32, got float64"),
    (
        "select_token",
        {"scores": zeros(2, 7)},
        "scores must have shape [batch, k] = [2, 8], got [2, 7]",
    ),
    ("select_token", {"ids": zeros(2, 0, dtype=i64)}, "ids must have 1 to 64 columns, got 0"),
    ("select_token", {"ids": zeros(2, 65, dtype=i64)}, "ids must have 1 to 64 columns, got 65"),
    *head_cases("score_and_select"),
    *row_cases("score_and_select"),
    (
        "score_and_select",
        {"hidden": zeros(16, 32)},
        "hidden must have 3 dimensions [batch, k, hidden_size], got [16, 32]",
    ),
    (
        "score_and_select",
        {"ids": zeros(2, 7, dtype=i64)},
        "ids must have shape [batch, k] = [2, 8], got [2, 7]",
    ),
    (
        "score_and_select",
        {"candidate_logprobs": zeros(2, 8, dtype=torch.bfloat16)},
        "candidate_logprobs must be float32, got bfloat16",
    ),
    (
        "score_and_select",
        {"candidate_logprobs": zeros(2, 9)},
        "candidate_logprobs must have shape [batch, k] = [2, 8], got [2, 9]",
    ),
    ("score_and_select", {"prior_weight": math.nan}, "prior_weight must be finite, got nan"),
    *logits_cases("logits", "sample_token"),
    *blocked_cases("sample_token"),
    *sampling_cases("sample_token"),
    *CASES_OF_CACHES,
    *logits_cases("teacher_logits", "support_kl"),
    *id_cases("support_kl"),
    (
        "support_kl",
        {"student_logits": zeros(2, 64, dtype=torch.bfloat16)},
        "student_logits must be float32, got bfloat16",
    ),
    (
        "support_kl",
        {"student_logits": zeros(2, 63)},
        "student_logits must have shape [batch, support] = [2, 64], got [2, 63]",
    ),
    ("score_and_select", {"override_margin": -0.5}, f"{MARGIN}, got -0.5"),
    ("score_and_select", {"override_margin": math.inf}, f"{MARGIN}, got inf"),
    (
        "random_uniform",
        {"seed": zeros(2, 1, dtype=i64)},
        "seed must have 1 dimensions [batch], got [2, 1]",
    ),
    ("random_uniform", {"seed": zeros(2)}, "seed must be int64, got float32"),
    ("random_uniform", {"position": zeros(2)}, "position must be int64, got float32"),
    (
        "random_uniform",
        {"position": zeros(3, dtype=i64)},
        "position must have shape [batch] = [2], got [3]",
    ),
    ("random_uniform", {"purpose": -1}, "purpose must be in [0, 4294967295], got -1"),
    ("random_uniform", {"purpose": 2**32}, "purpose must be in [0, 4294967295], got 4294967296"),
]
