"""The attention of a tree step by back end: with a mask, without one, and of one ordinary token.

    python bench/gpu/attention.py [--device cuda]

The shapes are Qwen2.5-0.5B's: 2 key heads of 64, 7 query heads each, 8 candidates.
"""

import argparse
import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from measure import microseconds, put
from torch.nn.attention import SDPBackend, sdpa_kernel

FILE = "attention.jsonl"
HEADS, GROUPS, SIZE, K = 2, 7, 64, 8
BACKENDS = {
    "default": None,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
}


def calls(batch: int, prefix: int, device: str) -> dict[str, Any]:
    """Candidates packed as queries of their key head, over a prefix and their own K entries."""
    width = prefix + K
    query = torch.randn(batch, HEADS, GROUPS * K, SIZE, device=device).bfloat16()
    shape = (2, batch, HEADS, width, SIZE)
    keys, values = torch.randn(shape, device=device).bfloat16()
    mask = torch.ones(1, 1, GROUPS * K, width, dtype=torch.bool, device=device)
    token = torch.randn(batch, HEADS * GROUPS, 1, SIZE, device=device).bfloat16()
    return {
        "tree step, boolean mask": lambda: F.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask
        ),
        "prefix of a tree step, no mask": lambda: F.scaled_dot_product_attention(
            query, keys, values
        ),
        "one token": lambda: F.scaled_dot_product_attention(token, keys, values, enable_gqa=True),
    }


def main() -> None:
    """Every shape, case and back end; a back end that cannot says so."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    device = parser.parse_args().device
    real = device == "cuda"
    for batch, prefix in ((1, 1024), (1, 8192), (32, 1024), (32, 8192)) if real else ((1, 32),):
        for case, call in calls(batch, prefix, device).items():
            for name, backend in BACKENDS.items() if real else (("default", None),):
                chosen = sdpa_kernel(backend) if backend else contextlib.nullcontext()
                row = dict(what=case, backend=name, batch=batch, prefix=prefix)
                try:
                    with chosen:
                        put(FILE, **row, **microseconds(call, device))
                except RuntimeError as error:
                    put(FILE, **row, error=str(error).split("\n")[0][:120])


if __name__ == "__main__":
    main()
