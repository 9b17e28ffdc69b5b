"""How often a step waits for the device: every read of a value by the host is one operator.

Without padding: over a padded prompt, transformers itself reads the mask in every ordinary forward
on a growing cache.
"""

import pytest
import torch
import transformers
from architectures import PAD
from models import make_selector, prompts, tiny_model, way_in
from packaging.version import Version
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import StoppingCriteria, StoppingCriteriaList

from s2t_ext import S2TConfig
from s2t_ext.decoding.steps import self_test

aten = torch.ops.aten
#: Operators whose result the host needs, so that it waits: values, and shapes that depend on them.
READS = {
    *(aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero),
    *(aten._unique2, aten.repeat_interleave),
}


@pytest.fixture(autouse=True)
def tree_steps_as_on_a_gpu(monkeypatch):
    """On a CPU, where reading costs nothing, they look which rows need their slots."""
    monkeypatch.setattr(self_test, "RAGGED_DEVICES", ())


class CountReads(TorchDispatchMode):
    """Counts reads since the last mark."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.per_step: list[list[str]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in READS:
            self.reads.append(str(function))
        return function(*args, **(kwargs or {}))

    def mark(self, event) -> None:
        self.per_step.append(self.reads)
        self.reads = []


#: transformers reads the mask of the prompt in every forward, where it does not drop one without
#: padding.
DROPS_MASKS = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.19"), reason="transformers reads once more"
)
DYNAMIC = pytest.param(False, marks=DROPS_MASKS)


class Never(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        return torch.zeros_like(input_ids[:, 0], dtype=torch.bool)


def reads_per_step(config: S2TConfig, **options) -> tuple[list[int], list[bool]]:
    """Reads between one step's event and the next, and whether the later step chose."""
    model, inputs = tiny_model("llama"), prompts(False)
    counted, chose = CountReads(), []

    def on_step(event) -> None:
        counted.mark(event)
        chose.append(event.scores is not None)

    generate = way_in("generate", model, config, make_selector(model), on_step=on_step, seed=1)
    generate(  # what is found out once per model
        input_ids=inputs.ids, attention_mask=inputs.mask, max_new_tokens=2, pad_token_id=PAD
    )
    counted.per_step, counted.reads = [], []
    chose.clear()
    with counted:
        generate(
            input_ids=inputs.ids,
            attention_mask=inputs.mask,
            max_new_tokens=20,
            eos_token_id=96,
            pad_token_id=PAD,
            do_sample=False,
            **options,
        )
    return [len(reads) for reads in counted.per_step[1:]], chose[1:]


@pytest.mark.parametrize("static", [DYNAMIC, True])
def test_an_ordinary_step_reads_once_a_choice_once_more(static):
    """Is any row triggered, does any row go on: one read. Only a choice can change the answer."""
    options = {"cache_implementation": "static"} if static else {}
    config = S2TConfig(k=4, trigger="random", threshold=0.15, warmup_steps=0)
    reads, chose = reads_per_step(config, **options)
    assert len(reads) == 19 and 3 < sum(chose) < 19
    for count, is_choice in zip(reads, chose, strict=True):
        assert count == (2 if is_choice else 1)


@DROPS_MASKS
def test_plain_decoding_reads_once():
    reads, _ = reads_per_step(S2TConfig(trigger="never"))
    assert reads == [1] * 19


@DROPS_MASKS
def test_criteria_of_the_user_are_asked_once_a_step():
    """They may count their calls."""

    class Counts(Never):
        calls = 0

        def __call__(self, input_ids, scores, **kwargs):
            self.calls += 1
            return super().__call__(input_ids, scores)

    config = S2TConfig(k=4, trigger="random", threshold=0.15, warmup_steps=0)
    criterion = Counts()
    reads, _ = reads_per_step(config, stopping_criteria=StoppingCriteriaList([criterion]))
    assert criterion.calls == 20
    assert set(reads) == {2}  # is any triggered; does any go on
