"""score_and_select beside its composition from torch operators.

    pytest bench/bench_score_and_select.py -s

The composition is what a decode loop would write: a linear layer on the reserved rows, softmax,
expected value, prior term, mask, argmax, gather, and the choice between candidate, default and
padding.
"""

import math

import pytest
import torch

from s2t_ext import ops, reference
from s2t_ext.testing import ScoreCase, assert_close, assert_same_bits


def composition(
    hidden,
    rows,
    bin_values,
    ids,
    candidate_logprobs,
    prior_weight,
    triggered,
    default_token,
    finished,
    pad_id,
):
    p = torch.softmax(torch.nn.functional.linear(hidden, rows).float(), dim=-1)
    total = p @ bin_values + prior_weight * candidate_logprobs
    total = total.masked_fill(ids < 0, -math.inf)
    slot = total.argmax(dim=1)
    chosen = ids.gather(1, slot[:, None]).squeeze(1)
    token = torch.where(triggered, chosen, default_token)
    token = torch.where(finished, pad_id, token)
    return token, torch.where(triggered & ~finished, slot, 0), total


@pytest.mark.parametrize("batch", [1, 8, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_score_and_select(compare, num_threads, batch, dtype):
    case = ScoreCase(
        batch=batch, k=8, hidden_size=896, hidden_dtype=dtype, rows_dtype=dtype, prior_weight=0.1
    )
    hidden, head, choice = case.hidden(), case.head(), case.choice()

    def fused():
        return ops.score_and_select(hidden, **head, **choice)

    def composed():
        return composition(hidden, head["rows"], head["bin_values"], **choice)

    ours, theirs = fused(), composed()
    expected = reference.score_and_select(hidden, **head, **choice)
    assert_close(ours.scores, expected.scores, dtype)
    assert_same_bits(ours.token, expected.token)
    # torch rounds half-precision logits to their type before the softmax, ours stay in float32
    torch.testing.assert_close(theirs[2], ours.scores, atol=3e-2, rtol=0)
    if dtype == torch.float32:
        assert_same_bits(theirs[0], ours.token)
        assert_same_bits(theirs[1], ours.slot)
    compare(
        {"batch": batch, "k": 8, "hidden_size": 896, "bins": 16, "dtype": str(dtype)[6:]}
        | {"threads": num_threads},
        {"torch": composed, "s2t_ext": fused},
        ours="s2t_ext",
    )
