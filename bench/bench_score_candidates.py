"""score_candidates beside linear, softmax and expected value from torch.

pytest bench/bench_score_candidates.py -s
"""

import pytest
import torch

from s2t_ext import ops, reference
from s2t_ext.testing import ScoreCase, assert_close


@pytest.mark.parametrize("candidates", [1, 8, 64, 512])
@pytest.mark.parametrize("hidden_size", [896, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_score_candidates(compare, num_threads, candidates, hidden_size, dtype):
    case = ScoreCase(
        batch=1, k=candidates, hidden_size=hidden_size, hidden_dtype=dtype, rows_dtype=dtype
    )
    hidden, head = case.hidden()[0], case.head()
    rows, bin_values = head["rows"], head["bin_values"]

    def fused():
        return ops.score_candidates(hidden, rows, bin_values=bin_values)

    def composed():
        z = torch.nn.functional.linear(hidden, rows).float()
        return torch.softmax(z, dim=-1) @ bin_values

    assert_close(fused(), reference.score_candidates(hidden, rows), dtype)
    # torch rounds half-precision logits to their type before the softmax, ours stay in float32
    torch.testing.assert_close(composed(), fused(), atol=3e-2, rtol=0)
    compare(
        {"candidates": candidates, "hidden_size": hidden_size, "bins": 16, "dtype": str(dtype)[6:]}
        | {"threads": num_threads},
        {"torch": composed, "s2t_ext": fused},
        ours="s2t_ext",
    )
