"""The CUDA kernels on a GPU: the CPU kernels' bits, also replayed from a CUDA graph.

Without a GPU these are skipped (or fail, with S2T_EXT_FAIL_WITHOUT_CUDA=1); the same kernels then
run in test_simt_rows.py and test_simt_ops.py.
"""

import pytest
import torch
from simt_cases import assert_same_results, needs_native, row_cases

from s2t_ext import ops
from s2t_ext.native import library as _library
from s2t_ext.testing import DTYPES, SCORE_CASES, ScoreCase

pytestmark = needs_native


@pytest.fixture
def gpu(cuda):
    if not _library.cuda_is_loaded():
        pytest.fail(f"there is a GPU, but _C_cuda is not loaded: {_library.cuda_load_error()}")
    return cuda


def moved(value, device):
    """Tensors of nested containers on the device, with their strides; the rest as it is."""
    if isinstance(value, torch.Tensor):
        there = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
        return there.copy_(value)
    if isinstance(value, dict):
        return {name: moved(item, device) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [moved(item, device) for item in value]
    return value


@pytest.mark.parametrize("case", row_cases(), ids=str)
def test_propose_candidates_gives_the_cpu_bits(gpu, case):
    logits = case.make()
    expected = ops.propose_candidates(logits, case.k, 64)
    assert_same_results(ops.propose_candidates(moved(logits, gpu), case.k, 64), expected)


@pytest.mark.parametrize("index", range(len(SCORE_CASES)), ids=lambda i: str(SCORE_CASES[i]))
def test_score_candidates_gives_the_cpu_bits(gpu, index):
    case = SCORE_CASES[index]
    hidden = case.hidden().flatten(0, 1)
    actual = ops.score_candidates(hidden.to(gpu), **case.head(gpu))
    assert_same_results(actual, ops.score_candidates(hidden, **case.head()))


def choice_of(case: ScoreCase) -> dict:
    choice = {
        **case.choice(),
        "seed": torch.arange(case.batch),
        "position": torch.arange(case.batch),
    }
    choice["triggered"][1::3] = False
    choice["finished"][2::5] = True
    choice["ids"][0, case.k // 2 + 1 :] = -1
    return choice


@pytest.mark.parametrize("temperature, margin", [(0.0, 0.0), (0.7, 0.0), (0.0, 0.05), (0.7, 0.05)])
@pytest.mark.parametrize("index", range(len(SCORE_CASES)), ids=lambda i: str(SCORE_CASES[i]))
def test_score_and_select_gives_the_cpu_bits(gpu, index, temperature, margin):
    case = SCORE_CASES[index]
    arguments = {"hidden": case.hidden(), **case.head(), **choice_of(case)}
    options = {"score_temperature": temperature, "override_margin": margin}
    actual = ops.score_and_select(**moved(arguments, gpu), **options)
    assert_same_results(actual, ops.score_and_select(**arguments, **options))


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_select_token_gives_the_cpu_bits(gpu, temperature):
    arguments = choice_of(ScoreCase(batch=33, k=9))
    del arguments["candidate_logprobs"], arguments["prior_weight"]
    arguments["scores"] = torch.randn(33, 9).round()  # with ties
    arguments["scores"][3] = float("nan")
    actual = ops.select_token(**moved(arguments, gpu), score_temperature=temperature)
    assert_same_results(actual, ops.select_token(**arguments, score_temperature=temperature))


@pytest.mark.parametrize("case", row_cases((65, 1025, 50_257)), ids=str)
def test_support_kl_gives_the_cpu_bits(gpu, case):
    student = ops.propose_candidates(torch.randn(case.batch, case.vocab), 64)
    arguments = [student.ids, student.logits, case.make(), student.ids[:, : case.k].contiguous()]
    assert_same_results(ops.support_kl(*moved(arguments, gpu)), ops.support_kl(*arguments))


@pytest.mark.parametrize("head_size", [1, 5, 64, 128])
@pytest.mark.parametrize("dtype", DTYPES)
def test_commit_candidates_gives_the_cpu_bytes(gpu, dtype, head_size):
    """Seventy buffers, more than one launch takes; a row with a slot that is none is left alone."""
    buffers = [torch.randn(5, 2, 20, head_size).to(dtype) for _ in range(70)]
    slot, start = torch.tensor([0, 3, -1, 7, 9]), torch.tensor([1, 12, 3, 5, 2])
    on_gpu = moved(buffers, gpu)
    ops.commit_candidates(on_gpu[:35], on_gpu[35:], slot.to(gpu), start.to(gpu), 8)
    slot[4] = -1
    ops.commit_candidates(buffers[:35], buffers[35:], slot, start, 8)
    assert_same_results(on_gpu, buffers)


@pytest.mark.parametrize("elements", [1, 5, 64, 4000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_copy_blocks_gives_the_cpu_bytes(gpu, dtype, elements):
    """More caches than one launch takes; a pair with a block that is none is left out."""
    caches = [torch.randn(9, 2, elements).to(dtype) for _ in range(100)]
    on_gpu = moved(caches, gpu)
    source, target = torch.tensor([0, 3, 4, 9]), torch.tensor([8, 7, 4, 1])
    ops.copy_blocks(on_gpu, source.to(gpu), target.to(gpu))
    ops.copy_blocks(caches, source[:3], target[:3])
    assert_same_results(on_gpu, caches)


def test_random_uniform_gives_the_cpu_bits(gpu):
    arguments = [torch.arange(1000) * 2**40 - 7, torch.arange(1000) * 2**33, 16]
    assert_same_results(ops.random_uniform(*moved(arguments, gpu)), ops.random_uniform(*arguments))


def test_a_batch_larger_than_a_grid(gpu):
    """65,535 blocks are the most in a grid's second dimension."""
    batch, vocab = 65_540, 70
    logits = torch.randn(batch, vocab)
    proposed = ops.propose_candidates(logits, 8)
    assert_same_results(ops.propose_candidates(logits.to(gpu), 8), proposed)
    arguments = [proposed.ids, proposed.logits, logits.flip(1), proposed.ids]
    assert_same_results(ops.support_kl(*moved(arguments, gpu)), ops.support_kl(*arguments))
    rules = [torch.full((batch,), value) for value in (1.0, 5, 0.9, 0.0)]
    rows = [logits, *rules, torch.arange(batch), torch.arange(batch)]
    assert_same_results(ops.sample_token(*moved(rows, gpu)), ops.sample_token(*rows))
    buffers = [[torch.randn(batch, 1, 4, 2)], [torch.randn(batch, 1, 4, 2)]]
    slot, start = torch.arange(batch) % 3, torch.zeros(batch, dtype=torch.int64)
    on_gpu = moved(buffers, gpu)
    ops.commit_candidates(*on_gpu, slot.to(gpu), start.to(gpu), 4)
    ops.commit_candidates(*buffers, slot, start, 4)
    assert_same_results([*on_gpu[0], *on_gpu[1]], [*buffers[0], *buffers[1]])


def test_a_device_that_is_not_the_current_one(gpu):
    if torch.cuda.device_count() < 2:
        pytest.skip("torch sees one CUDA device")
    logits = torch.randn(3, 50_257)
    with torch.cuda.device(0):
        actual = ops.propose_candidates(logits.to("cuda:1"), 16)
        assert actual.ids.device == torch.device("cuda:1")
        assert_same_results(actual, ops.propose_candidates(logits, 16))
        uniform = ops.random_uniform(*moved([torch.arange(9), torch.arange(9)], "cuda:1"), 16)
        assert_same_results(uniform, ops.random_uniform(torch.arange(9), torch.arange(9), 16))


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
