"""The CUDA kernels on a GPU: the CPU kernels' bits, also replayed from a CUDA graph.

Without a GPU these are skipped (or fail, with S2T_FAIL_WITHOUT_CUDA=1); the same kernels then run
in test_simt_rows.py and test_simt_ops.py.
"""

import pytest
import torch
from simt_cases import assert_same_results, needs_native, row_cases

from s2t_ext import ops
from s2t_ext.native import library as _library
from s2t_ext.testing import SCORE_CASES

pytestmark = needs_native


@pytest.fixture
def gpu(cuda):
    if not _library.cuda_is_loaded():
        pytest.fail(f"there is a GPU, but _C_cuda is not loaded: {_library.cuda_load_error()}")
    return cuda


@pytest.mark.parametrize("case", row_cases(), ids=str)
def test_propose_candidates_gives_the_cpu_bits(gpu, case):
    logits = case.make()
    on_gpu = torch.empty_strided(logits.shape, logits.stride(), dtype=logits.dtype, device=gpu)
    on_gpu.copy_(logits)
    expected = ops.propose_candidates(logits, case.k, 64)
    assert_same_results(ops.propose_candidates(on_gpu, case.k, 64), expected)


@pytest.mark.parametrize("index", range(len(SCORE_CASES)), ids=lambda i: str(SCORE_CASES[i]))
def test_score_candidates_gives_the_cpu_bits(gpu, index):
    case = SCORE_CASES[index]
    hidden = case.hidden().flatten(0, 1)
    actual = ops.score_candidates(hidden.to(gpu), **case.head(gpu))
    assert_same_results(actual, ops.score_candidates(hidden, **case.head()))


@pytest.mark.parametrize("vocab", [65, 1025, 50_257, 151_936])
def test_sample_token_gives_the_cpu_bits(gpu, vocab):
    logits = torch.randn(8, vocab).bfloat16()
    rules = (
        torch.tensor([0.0, 1.0, 0.7, 1.3, 1.0, 0.5, 2.0, 1.0]),
        torch.tensor([0, 0, 5, 100, 0, 1, 200, 300]),
        torch.tensor([1.0, 1.0, 0.9, 0.95, 0.9, 0.5, 0.97, 1.0]),
        torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 0.001, 0.01]),
        *(torch.arange(8), torch.arange(8) * 3),
    )
    actual = ops.sample_token(logits.to(gpu), *(rule.to(gpu) for rule in rules))
    assert_same_results(actual, ops.sample_token(logits, *rules))


def test_a_captured_graph_gives_the_same_bits_at_every_replay(gpu):
    logits = torch.randn(3, 50_257, device=gpu)
    ops.propose_candidates(logits, 16, 64)  # the stream's counters exist before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = ops.propose_candidates(logits, 16, 64)
    for seed in range(50):
        logits.copy_(torch.randn(3, 50_257, generator=torch.Generator().manual_seed(seed)))
        graph.replay()
        assert_same_results(results, ops.propose_candidates(logits.cpu(), 16, 64))


def test_two_streams_at_once_do_not_share_a_workspace(gpu):
    logits = [torch.randn(8, 151_936, device=gpu) for _ in range(2)]
    expected = [ops.propose_candidates(value.cpu(), 64, 64) for value in logits]
    streams = [torch.cuda.Stream() for _ in range(2)]
    torch.cuda.synchronize()
    results: list = [[], []]
    for _ in range(100):
        for i, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                results[i].append(ops.propose_candidates(logits[i], 64, 64))
    torch.cuda.synchronize()
    for i in range(2):
        for actual in results[i]:
            assert_same_results(actual, expected[i])
