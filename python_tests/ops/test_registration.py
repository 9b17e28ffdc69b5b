"""Every operator keeps the rules of torch.library: schema, fake, mutation, compilation."""

import copy
import math

import pytest
import torch

from s2t_ext import ops, reference
from s2t_ext.native import library as _library
from s2t_ext.ops import _bind
from s2t_ext.ops._bind import bind, default_bin_values
from s2t_ext.testing import LogitsCase, ScoreCase, assert_same_bits

pytestmark = pytest.mark.skipif(
    not _library.is_loaded(), reason="without the native library there is nothing to register"
)

BATCH = 2


def logits(dtype=torch.float32):
    return LogitsCase(batch=BATCH, vocab=100, k=8, dtype=dtype).make()


def propose(dtype=torch.float32):
    return (logits(dtype), 8, 64, torch.tensor([3, 7]))


def score(dtype=torch.float32):
    case = ScoreCase(batch=1, hidden_dtype=dtype, rows_dtype=dtype, has_bias=True)
    return (case.hidden()[0], *case.head().values())


def rows(case):
    choice = case.choice()
    return (choice["triggered"], choice["default_token"], choice["finished"], choice["pad_id"])


def state():
    return (torch.arange(BATCH), torch.arange(BATCH))


def select():
    case = ScoreCase(batch=BATCH)
    return (case.choice()["ids"], torch.randn(BATCH, 8), *rows(case), 0.5, *state())


def score_and_select(dtype=torch.float32):
    case = ScoreCase(batch=BATCH, hidden_dtype=dtype, rows_dtype=dtype)
    choice = case.choice()
    head = (case.hidden(), *case.head().values())
    return (*head, choice["ids"], choice["candidate_logprobs"], 0.1, *rows(case), 0.0, *state())


def sample():
    ones = torch.ones(BATCH)
    return (logits(), ones, torch.tensor([0, 5]), ones * 0.9, ones * 0, *state(), None)


def commit():
    buffers = [torch.randn(BATCH, 2, 12, 4) for _ in range(4)]
    return (buffers[:2], buffers[2:], torch.tensor([0, 3]), torch.tensor([4, 4]), 8)


def copied():
    caches = [torch.randn(6, 2, 4), torch.randn(7, 8)]
    return (caches, torch.tensor([0, 3, 5]), torch.tensor([1, 4, 5]))


def support_kl():
    student = ops.propose_candidates(logits(), 8)
    return (student.ids, student.logits, torch.randn(BATCH, 100), student.ids)


CALLS = {
    "propose_candidates": propose,
    "propose_candidates-bfloat16": lambda: propose(torch.bfloat16),
    "propose_candidates-float16": lambda: propose(torch.float16),
    "score_candidates": score,
    "score_candidates-bfloat16": lambda: score(torch.bfloat16),
    "select_token": select,
    "score_and_select": score_and_select,
    "score_and_select-float16": lambda: score_and_select(torch.float16),
    "sample_token": sample,
    "commit_candidates": commit,
    "copy_blocks": copied,
    "support_kl": support_kl,
    "random_uniform": lambda: (*state(), 16),
}


#: Operators that write into their arguments, lists of tensors.
WRITING = ("commit_candidates", "copy_blocks")


def overload(call):
    return getattr(torch.ops.s2t_ext, call.split("-")[0]).default


def tensors(result):
    if isinstance(result, torch.Tensor):
        return (result,)
    return () if result is None else tuple(result)


def test_the_cases_cover_every_operator():
    assert {call.split("-")[0] for call in CALLS} == set(_library.OPERATORS)
    assert set(_library.OPERATORS) <= set(ops.__all__) & set(reference.__all__)


@pytest.mark.parametrize("call", CALLS)
def test_opcheck(call):
    results = torch.library.opcheck(overload(call), CALLS[call]())
    assert set(results.values()) == {"SUCCESS"}, results


@pytest.mark.parametrize("name", _library.OPERATORS)
def test_has_a_kernel_of_its_own_for_the_cpu(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"s2t_ext::{name}", "CPU")


@pytest.mark.parametrize("call", CALLS)
def test_fake_has_the_shapes_and_dtypes_of_the_result(call):
    arguments = CALLS[call]()
    actual = tensors(overload(call)(*arguments))
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        fake = tensors(overload(call)(*arguments))
    described = [[(t.shape, t.dtype, t.stride(), t.device) for t in ts] for ts in (actual, fake)]
    assert described[0] == described[1]


@pytest.mark.parametrize("call", [call for call in CALLS if call not in WRITING])
def test_runs_on_meta_tensors(call):
    def to_meta(value):
        return value.to("meta") if isinstance(value, torch.Tensor) else value

    actual = tensors(overload(call)(*CALLS[call]()))
    meta = tensors(overload(call)(*map(to_meta, CALLS[call]())))
    assert [t.shape for t in meta] == [t.shape for t in actual]


@pytest.mark.parametrize("call", [call for call in CALLS if call not in WRITING])
def test_schema_says_no_input_is_written(call):
    arguments = CALLS[call]()
    before = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
    overload(call)(*arguments)
    for argument, unchanged in zip(arguments, before, strict=True):
        if isinstance(argument, torch.Tensor):
            assert_same_bits(argument, unchanged)


ROWS = ("triggered", "default_token", "finished", "pad_id")
WRAPPED = {
    "propose_candidates": lambda: (ops.propose_candidates, propose(), {}),
    "score_candidates": lambda: (ops.score_candidates, score()[:2], {}),
    "select_token": lambda: (
        ops.select_token,
        select()[:1],
        dict(scores=select()[1], **{n: ScoreCase(batch=BATCH).choice()[n] for n in ROWS}),
    ),
    "score_and_select": lambda: (
        ops.score_and_select,
        (ScoreCase().hidden(),),
        {"rows": ScoreCase().head()["rows"], **ScoreCase().choice()},
    ),
    "sample_token": lambda: (ops.sample_token, sample(), {}),
    "commit_candidates": lambda: (ops.commit_candidates, commit(), {}),
    "copy_blocks": lambda: (ops.copy_blocks, copied(), {}),
    "support_kl": lambda: (ops.support_kl, support_kl(), {}),
    "random_uniform": lambda: (ops.random_uniform, (*state(), 16), {}),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_compiles_into_a_full_graph(name):
    function, arguments, options = WRAPPED[name]()
    ours, theirs = copy.deepcopy((arguments, options)), copy.deepcopy((arguments, options))

    def step(*a, **o):
        return function(*a, **o)

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    actual, expected = (
        tensors(compiled(*ours[0], **ours[1])),
        tensors(step(*theirs[0], **theirs[1])),
    )
    for a, b in zip(actual, expected, strict=True):
        assert_same_bits(a, b)
    if name in WRITING:
        for ours_written, theirs_written, before in zip(
            ours[0][0], theirs[0][0], arguments[0], strict=True
        ):
            assert_same_bits(ours_written, theirs_written)
            assert not torch.equal(ours_written, before)


def test_one_compiled_step_from_logits_to_the_committed_cache():
    """The whole decision of a step in one graph, for batches of any size."""

    def step(logits, hidden, rows, keys, values, start):
        proposed = ops.propose_candidates(logits, 8)
        chosen = ops.score_and_select(
            hidden,
            rows,
            ids=proposed.ids,
            candidate_logprobs=proposed.logits - proposed.logsumexp[:, None],
            triggered=proposed.support_entropy > 0.5,
            default_token=proposed.ids[:, 0],
            finished=torch.zeros_like(start, dtype=torch.bool),
            pad_id=0,
            prior_weight=0.1,
        )
        ops.commit_candidates([keys], [values], chosen.slot, start, 8)
        return chosen.token

    def arguments(batch):
        case = ScoreCase(batch=batch)
        logits = LogitsCase(batch, 500, 8).make()
        cache = torch.arange(batch * 2 * 20 * 4.0).view(batch, 2, 20, 4)
        start = torch.full((batch,), 6)
        return logits, case.hidden(), case.head()["rows"], cache.clone(), -cache, start

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (2, 5):
        ours, theirs = arguments(batch), arguments(batch)
        assert_same_bits(compiled(*ours), step(*theirs))
        assert_same_bits(ours[3], theirs[3])
        assert_same_bits(ours[4], theirs[4])


def test_a_tensor_of_another_device_reaches_the_reference():
    """Devices without a kernel run the reference; `meta` stands for none, so ask the dispatcher."""
    for name in _library.OPERATORS:
        key = "CompositeExplicitAutograd"
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"s2t_ext::{name}", key)


def test_without_the_library_an_operator_is_its_reference(monkeypatch):
    monkeypatch.setattr(_library, "is_loaded", lambda: False)
    assert bind("support_kl", reference.support_kl, None) is reference.support_kl


def test_default_bins_are_made_once_and_never_from_a_tracer():
    rows = torch.zeros(13, 4)
    with torch._subclasses.FakeTensorMode() as mode:
        default_bin_values(mode.from_tensor(rows))
    bins = default_bin_values(rows)
    assert_same_bits(bins, torch.linspace(0, 1, 13))
    assert default_bin_values(torch.ones(13, 9)) is bins


def test_bin_values_made_in_a_capture_are_not_kept(monkeypatch):
    """Their memory belongs to the graph, and holds the values only after its first replay."""
    rows = torch.ones(29, 9)
    monkeypatch.setattr(_bind, "_is_capturing", lambda tensor: True)
    in_graph = default_bin_values(rows)
    monkeypatch.undo()
    after = default_bin_values(rows)
    assert after is not in_graph
    assert default_bin_values(rows) is after


def test_results_are_named():
    result = ops.propose_candidates(logits(), 3)
    assert isinstance(result, ops.ProposedCandidates)
    names = ("ids", "logits", "logsumexp", "support_entropy", "full_entropy", "status")
    assert result._fields == names
    assert math.isfinite(result.logsumexp[0])
