"""select_token beside its composition from torch operators: the best score, and a draw.

pytest bench/bench_select_token.py -s
"""

import math

import pytest
import torch

from s2t_ext import ops
from s2t_ext.ops.reference.philox import PURPOSE_SELECT_TOKEN, uniform24
from s2t_ext.testing import ScoreCase, assert_same_bits

PAD = 999


def finish(ids, slot, triggered, default_token, finished):
    chosen = ids.gather(1, slot[:, None]).squeeze(1)
    token = torch.where(finished, PAD, torch.where(triggered, chosen, default_token))
    return token, torch.where(triggered & ~finished, slot, 0)


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("temperature", [0.0, 0.7], ids=["best", "drawn"])
def test_select_token(compare, batch, temperature):
    choice = ScoreCase(batch=batch, k=8).choice()
    ids, rows = choice["ids"], {n: choice[n] for n in ("triggered", "default_token", "finished")}
    scores = torch.randn(batch, 8, generator=torch.Generator().manual_seed(0))
    seed, position = torch.arange(batch), torch.full((batch,), 5)
    # The composition gets its random numbers for nothing.
    u = uniform24(seed, position, PURPOSE_SELECT_TOKEN).float()[:, None]

    def fused():
        return ops.select_token(
            ids,
            scores=scores,
            **rows,
            pad_id=PAD,
            score_temperature=temperature,
            seed=seed,
            position=position,
        )

    def composed():
        masked = scores.masked_fill(ids < 0, -math.inf)
        if temperature == 0:
            return finish(ids, masked.argmax(dim=1), **rows)
        cumulated = torch.softmax(masked / temperature, dim=1).cumsum(dim=1)
        return finish(ids, (cumulated <= u * cumulated[:, -1:]).sum(dim=1), **rows)

    for ours, theirs in zip(fused(), composed(), strict=True):
        assert_same_bits(theirs, ours)
    compare(
        {"batch": batch, "k": 8, "choice": "drawn" if temperature else "best"},
        {"torch": composed, "s2t_ext": fused},
        ours="s2t_ext",
    )
