"""Numbers and arrays as callers hand them over: honoured in any width and type, or refused."""

import numpy as np
import pytest
import torch
import transformers
from models import build_model, make_selector, prompts, tiny_model, way_in

from s2t_ext import S2TConfig, Selector, Teacher
from s2t_ext.decoding.options import row_seeds

ALWAYS = S2TConfig(k=4, trigger="always", warmup_steps=0)
NEVER = S2TConfig(trigger="never")
MIXED = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0)
CPU = torch.device("cpu")


def run(config=ALWAYS, selector=None, model=None, new_tokens=5, **options):
    model = model or tiny_model("llama")
    selector = selector or make_selector(tiny_model("llama"))
    generate = way_in("generate", model, config, selector, **options.pop("way", dict(seed=3)))
    arguments = dict(input_ids=prompts(False).ids, max_new_tokens=new_tokens, eos_token_id=None)
    return generate(**{**arguments, **options})


# ---- seeds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "rows"),
    [
        (5, [5, 6]),
        (-1, [-1, 0]),
        (2**63 - 1, [2**63 - 1, -(2**63)]),
        (2**63, [-(2**63), -(2**63) + 1]),
        (2**64 - 1, [-1, 0]),
        (np.int32(5), [5, 6]),
        (np.uint64(2**64 - 1), [-1, 0]),
        (torch.tensor(5), [5, 6]),
        ([2**63, 1], [-(2**63), 1]),
        ((7, 7), [7, 7]),
        (torch.tensor([5, 9]), [5, 9]),
        (np.array([5, 9], dtype=np.uint8), [5, 9]),
    ],
)
def test_seeds(seed, rows):
    assert row_seeds(seed, 2, CPU).tolist() == rows
    run(NEVER, do_sample=True, way=dict(seed=seed))


@pytest.mark.parametrize(
    ("seed", "words"),
    [
        (3.0, "be an integer, got 3.0"),
        (True, "be an integer, got True"),
        ("7", "be an integer, got '7'"),
        (torch.tensor(5.0), "be an integer, got tensor(5.)"),
        ([1, 2.5], "be an integer, got 2.5"),
        ([[1], [2]], "be an integer, got [1]"),
        (2**64, f"have at most 64 bits, got {2**64}"),
        (-(2**63) - 1, f"have at most 64 bits, got {-(2**63) - 1}"),
        ([1], "be an integer or have one entry per row (2), got 1 entries"),
        (object, f"be a sequence of integers, got {object!r}"),
        ({1, 2}, "be a sequence of integers, got {1, 2}"),
    ],
)
def test_seeds_refused(seed, words):
    with pytest.raises(ValueError) as error:
        run(NEVER, do_sample=True, way=dict(seed=seed))
    assert str(error.value) == f"generate: seed must {words}"


# ---- selectors -----------------------------------------------------------------------------------

ROWS = make_selector(tiny_model("llama")).rows


@pytest.mark.parametrize(
    "rows",
    [
        ROWS.double(),
        ROWS.numpy(),
        ROWS.double().numpy(),
        ROWS.tolist(),
        torch.nn.Parameter(ROWS),
        ROWS.T.contiguous().T,
    ],
    ids=["float64", "numpy", "numpy64", "list", "parameter", "strided"],
)
def test_rows(rows):
    selector = Selector(
        rows,
        bias=np.zeros(16),
        bin_values=torch.linspace(0, 1, 31)[::2].double(),
        bin_temperature=np.float32(1.0),
        prior_weight=torch.tensor(0.0),
        reserved_ids=torch.tensor([90, 80]),
        trigger_head=(ROWS[0].double().numpy(), torch.tensor(0.5)),
    )
    expected = Selector(ROWS, reserved_ids=[80, 90])
    assert selector.reserved_ids == (80, 90) and selector.trigger_head.weight.dtype == torch.float32
    assert torch.equal(run(selector=selector), run(selector=expected))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_narrow_rows(dtype):
    assert run(selector=Selector(ROWS.to(dtype))).shape == (2, 14)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(rows=torch.ones(2, 3, dtype=torch.int64)), "rows must be floating [R, D]"),
        (dict(rows=[[1.0], [2.0, 3.0]]), "rows must be floating [R, D], got [[1.0], [2.0, 3.0]]"),
        (
            dict(rows=ROWS.to("meta")),
            "rows must be a dense tensor in memory, got a tensor on the meta device",
        ),
        (
            dict(rows=ROWS.to_sparse()),
            "rows must be a dense tensor in memory, got torch.sparse_coo",
        ),
        (dict(rows="rows"), "rows must be floating [R, D], got 'rows'"),
        (dict(bias=[0.0]), "bias must have shape [16], got [1]"),
        (dict(bin_values=np.full(16, np.nan)), "bin_values must be finite, got NaN or infinities"),
        (dict(bin_temperature=float("inf")), "bin_temperature must be finite, got inf"),
        (dict(bin_temperature="1"), "bin_temperature must be a number, got '1'"),
        (dict(bin_temperature=True), "bin_temperature must be a number, got True"),
        (dict(bin_temperature=0), "bin_temperature must be above 0, got 0.0"),
        (dict(prior_weight=None), "prior_weight must be a number, got None"),
        (dict(logit_scale=float("nan")), "logit_scale must be finite, got nan"),
        (dict(softcap=-1), "softcap must be above 0, got -1.0"),
        (dict(softcap=float("inf")), "softcap must be finite, got inf"),
        (dict(reserved_ids=[3.7]), "reserved_ids must be an integer, got 3.7"),
        (dict(reserved_ids="3"), "reserved_ids must be a sequence of integers, got '3'"),
        (dict(reserved_ids=[True]), "reserved_ids must be an integer, got True"),
        (dict(trigger_head=(ROWS[0], float("nan"))), "trigger_head must be finite, got nan"),
        (dict(trigger_head=(ROWS[0][:3], 0.0)), "trigger_head must have 32 weights, got 3"),
    ],
)
def test_selectors_refused(options, words):
    with pytest.raises(ValueError) as error:
        Selector(**{"rows": ROWS, **options})
    assert str(error.value).startswith(f"Selector: {words}")


def test_a_caller_s_selector_stays_where_it_is():
    """A copy goes to the device of the prompts, if that is another."""
    selector = Selector(ROWS, bias=[0.0] * 16, trigger_head=(ROWS[0], 0.0))
    assert selector.on("cpu") is selector
    moved = selector.on("meta")
    assert moved.rows.device.type == moved.bias.device.type == "meta"
    assert moved.bin_values.device.type == moved.trigger_head.weight.device.type == "meta"
    assert selector.rows.device.type == selector.trigger_head.weight.device.type == "cpu"


# ---- options -------------------------------------------------------------------------------------


def test_options_of_numpy_and_torch():
    config = S2TConfig(
        k=np.int64(4),
        support=torch.tensor(8),
        warmup_steps=np.int8(0),
        threshold=torch.tensor(0.5),
        candidate_ratio=np.float32(0.25),
        score_temperature=np.float16(0.5),
    )
    plain = S2TConfig(
        k=4, support=8, warmup_steps=0, threshold=0.5, candidate_ratio=0.25, score_temperature=0.5
    )
    assert config == plain and {type(v) for v in config.to_dict().values()} <= {int, float, str}


@pytest.mark.parametrize("value", [4.0, True, "4", None, torch.tensor(4.0), [4]])
def test_options_refused(value):
    with pytest.raises(ValueError) as error:
        S2TConfig(k=value)
    assert str(error.value) == f"S2TConfig: k must be an integer, got {value!r}"


# ---- processors, prompts, models, torch's defaults -----------------------------------------------


class Returns(transformers.LogitsProcessor):
    def __init__(self, change):
        self.change = change

    def __call__(self, input_ids, scores):
        return self.change(scores)


CHANGES = {
    "float64": lambda x: x.double(),
    "float16": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "strided": lambda x: x.T.contiguous().T,
    "narrow": lambda x: x[:, :50],
    "expanded": lambda x: x[:, :1].expand_as(x),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_processor_returns(change):
    """As transformers takes it."""
    options = dict(logits_processor=[Returns(CHANGES[change])], do_sample=False)
    model, ids = tiny_model("llama"), prompts(False).ids
    expected = model.generate(ids, max_new_tokens=5, eos_token_id=None, **options)
    assert torch.equal(run(NEVER, **options), expected)
    assert run(ALWAYS, **options).shape == expected.shape
    assert run(NEVER, **{**options, "do_sample": True}).shape == expected.shape


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda x: None, "NoneType"),
        (lambda x: x[:1], "[1, 97]"),
        (lambda x: x[:, None], "[2, 1, 97]"),
        (lambda x: x.numpy(), "ndarray"),
    ],
)
def test_processors_refused(change, got):
    for config in (NEVER, ALWAYS):
        with pytest.raises(ValueError) as error:
            run(config, logits_processor=[Returns(change)])
        assert str(error.value) == (
            "generate: logits_processor must return scores [batch, vocabulary] = [2, 97], got "
            + got
        )


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float32])
def test_masks(dtype):
    inputs = prompts(True)
    expected = run(input_ids=inputs.ids, attention_mask=inputs.mask)
    actual = run(input_ids=inputs.ids.int(), attention_mask=inputs.mask.to(dtype))
    assert torch.equal(actual.long(), expected)


@pytest.mark.parametrize("config", [NEVER, MIXED, ALWAYS])
def test_ids_of_32_bits(config):
    assert torch.equal(run(config, input_ids=prompts(False).ids.int()), run(config))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_of_a_teacher(dtype):
    config = S2TConfig(k=4, trigger="always", warmup_steps=0, select="teacher")

    def teach(model):
        way = dict(teacher=Teacher.from_model(model))
        generate = way_in("generate", tiny_model("llama"), config, **way)
        return generate(input_ids=prompts(False).ids, max_new_tokens=5)

    actual, expected = teach(build_model("llama", 3).to(dtype)), teach(build_model("llama", 3))
    assert actual.shape == expected.shape
    if dtype == torch.float64:
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "options",
    [
        dict(trigger="always"),
        dict(trigger="always", candidate_ratio=0.1),
        dict(trigger="always", score_temperature=1.0),
        dict(trigger="always", step="expand"),
        dict(trigger="entropy", threshold=1.0),
        dict(trigger="random", threshold=0.5),
        dict(trigger="margin", threshold=1.0),
        dict(trigger="head", threshold=0.5),
    ],
    ids=str,
)
def test_torch_s_default_dtype(options, dtype, request):
    """Nothing of ours is made in it."""
    model = build_model("llama")
    config = S2TConfig(k=4, warmup_steps=0, **options)
    rows = ROWS.tolist()
    arguments = dict(model=model, way=dict(seed=1))
    expected = run(config, Selector(rows, trigger_head=(rows[0], 0.1)), **arguments)
    torch.set_default_dtype(dtype)
    request.addfinalizer(lambda: torch.set_default_dtype(torch.float32))
    assert torch.equal(
        run(config, Selector(rows, trigger_head=(rows[0], 0.1)), **arguments), expected
    )
