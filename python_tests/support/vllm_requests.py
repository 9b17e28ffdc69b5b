"""Requests whose answers the specification knows."""

import torch

import s2t_ext

#: On both sides of the borders of blocks of 32 tokens.
LENGTHS = (5, 31, 32, 33, 50, 64, 70, 100)


def make_prompts(lengths=LENGTHS, seed=1):
    """Random token ids, none special or reserved."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 990, (n,), generator=generator).tolist() for n in lengths]


def make_request(prompt, config, new_tokens, **options):
    """The request for a prompt that is to be decoded by a configuration."""
    fields = (
        *("trigger", "threshold", "k", "support", "candidate_ratio", "warmup_steps"),
        "score_temperature",
    )
    values = {f"s2t_{name}": getattr(config, name) for name in fields}
    return {
        "prompt": prompt,
        "max_tokens": new_tokens,
        "ignore_eos": True,
        "seed": 0,
        "extra_args": {name: value for name, value in values.items() if value is not None},
        **options,
    }


def mixed_configs(count, **options):
    """Configurations of several widths, warm-ups and ratios, for one batch."""
    return [
        s2t_ext.S2TConfig(
            k=(8, 4, 16)[i % 3],
            candidate_ratio=(0.0, 0.0, 0.0, 0.8)[i % 4],
            warmup_steps=(0, 3)[i % 2],
            **options,
        )
        for i in range(count)
    ]
