"""Arguments that every operator accepts; the error cases change some of them."""

import torch

f32, f64, i64, i32 = torch.float32, torch.float64, torch.int64, torch.int32


def zeros(*shape, dtype=f32):
    return torch.zeros(shape, dtype=dtype)


def choice(**more):
    return {
        "ids": zeros(2, 8, dtype=i64),
        "triggered": zeros(2, dtype=torch.bool),
        "default_token": zeros(2, dtype=i64),
        "finished": zeros(2, dtype=torch.bool),
        "pad_id": 0,
        **more,
    }


# Arguments that are accepted; each case changes some.
GOOD = {
    "propose_candidates": lambda: {"logits": zeros(2, 100), "k": 8},
    "score_candidates": lambda: {"hidden": zeros(3, 32), "rows": zeros(16, 32)},
    "select_token": lambda: choice(scores=zeros(2, 8)),
    "score_and_select": lambda: choice(
        hidden=zeros(2, 8, 32), rows=zeros(16, 32), candidate_logprobs=zeros(2, 8)
    ),
    "sample_token": lambda: {
        "logits": zeros(2, 100),
        "temperature": zeros(2),
        "top_k": zeros(2, dtype=i64),
        "top_p": zeros(2),
        "min_p": zeros(2),
        "seed": zeros(2, dtype=i64),
        "position": zeros(2, dtype=i64),
    },
    "commit_candidates": lambda: {
        "keys": [zeros(2, 1, 20, 4)],
        "values": [zeros(2, 1, 24, 4)],
        "slot": torch.tensor([0, 3]),
        "start": torch.tensor([0, 12]),
        "k": 8,
    },
    "copy_blocks": lambda: {
        "caches": [zeros(6, 2, 4), zeros(7, 8)],
        "source": torch.tensor([0, 3, 5]),
        "target": torch.tensor([1, 4, 5]),
    },
    "support_kl": lambda: {
        "student_ids": zeros(2, 64, dtype=i64),
        "student_logits": zeros(2, 64),
        "teacher_logits": zeros(2, 100),
        "candidate_ids": zeros(2, 8, dtype=i64),
    },
    "random_uniform": lambda: {
        "seed": zeros(2, dtype=i64),
        "position": zeros(2, dtype=i64),
        "purpose": 16,
    },
}
