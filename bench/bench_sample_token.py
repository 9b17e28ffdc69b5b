"""sample_token beside torch: the warpers of a decode loop, softmax and multinomial.

    pytest bench/bench_sample_token.py -s

The composition does what Hugging Face's warpers do for the same parameters, with top-k by topk and
top-p by a sort of what is left, and takes the log-probability of the token from a full log softmax.
"""

import itertools

import pytest
import torch

from s2t_ext import ops, reference
from s2t_ext.testing import assert_close, assert_same_bits

VOCAB = 151_936
INPUTS = 16  # rows in turn, at least; see bench_propose_candidates.py
KINDS = {
    "greedy": {"temperature": 0.0},
    "top_k 50, top_p 0.9": {"temperature": 0.8, "top_k": 50, "top_p": 0.9},
    "no truncation": {"temperature": 0.8},
    "top_p 0.95": {"temperature": 0.8, "top_p": 0.95},
}


def composition(logits, temperature=1.0, top_k=0, top_p=1.0):
    x = logits.float()
    if temperature == 0:
        token = x.argmax(dim=-1, keepdim=True)
        return token[:, 0], torch.log_softmax(x, dim=-1).gather(1, token)[:, 0]
    if top_k:
        kept, ids = (x / temperature).topk(top_k)
    elif top_p < 1:
        kept, ids = (x / temperature).sort(dim=-1, descending=True)
    else:
        kept, ids = x / temperature, None
    p = torch.softmax(kept, dim=-1)
    if top_p < 1:
        p = p.masked_fill(p.cumsum(dim=-1) - p >= top_p, 0.0)
    drawn = torch.multinomial(p, 1)
    token = drawn if ids is None else ids.gather(1, drawn)
    return token[:, 0], torch.log_softmax(x, dim=-1).gather(1, token)[:, 0]


def arguments(batch, temperature=1.0, top_k=0, top_p=1.0):
    return (
        torch.full((batch,), temperature),
        torch.full((batch,), top_k),
        torch.full((batch,), top_p),
        torch.zeros(batch),
        torch.arange(batch),
        torch.arange(batch),
    )


@pytest.mark.parametrize("batch", [1, 8, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_sample_token(compare, num_threads, batch, dtype, kind):
    if batch == 64 and kind == "top_p 0.95":
        pytest.skip("torch sorts 64 whole rows in a second; 8 rows say the same")
    generator = torch.Generator().manual_seed(0)
    inputs = [
        (torch.randn(batch, VOCAB, generator=generator) * 3).to(dtype)
        for _ in range(max(1, INPUTS // batch))
    ]
    parameters = arguments(batch, **KINDS[kind])
    ours = ops.sample_token(inputs[0], *parameters)
    expected = reference.sample_token(inputs[0], *parameters)
    assert_same_bits(ours.token, expected.token)
    assert_close(ours.logprob, expected.logprob)
    if kind == "greedy":  # the only kind in which torch draws the same
        token, logprob = composition(inputs[0], **KINDS[kind])
        # torch sums a row of float32 to about 2e-5
        torch.testing.assert_close(logprob, expected.logprob, atol=1e-4, rtol=1e-4)
        assert_same_bits(
            inputs[0].gather(1, token[:, None]), inputs[0].gather(1, ours.token[:, None])
        )

    def in_turn(function):
        turns = itertools.cycle(inputs)
        return lambda: function(next(turns))

    compare(
        {"kind": kind, "batch": batch, "vocab": VOCAB, "dtype": str(dtype)[6:]}
        | {"threads": num_threads},
        {
            "torch": in_turn(lambda x: composition(x, **KINDS[kind])),
            "s2t_ext": in_turn(lambda x: ops.sample_token(x, *parameters)),
        },
        ours="s2t_ext",
    )
