"""`calibrate_margin`: it judges the very choices of decoding, and its margin keeps the limit."""

import json
from dataclasses import replace

import pytest
import torch
from checkpoint_cases import full_selector
from models import build_model, make_tokenizer, tiny_model
from tiny_teachers import teacher_model

import s2t_ext
from s2t_ext import S2TConfig, Teacher
from s2t_ext.distillation.quality.overrides import count_overrides
from s2t_ext.rollouts import roll_out

TEXTS = ("one", "two and three", "4")
CHOOSES = S2TConfig(
    k=4, trigger="entropy", threshold=1.0, select="teacher", proposer="base", warmup_steps=1
)
OPTIONS = dict(max_new_tokens=12, batch_size=2, use_chat_template=False, progress=False)


@pytest.fixture(scope="module")
def chooser():
    return Teacher.from_model(build_model("llama", seed=11))


@pytest.fixture(scope="module")
def judge():
    return Teacher.from_model(teacher_model())


@torch.no_grad()
def choices_of(judge, config, **who):
    """(totals, mask, the judge's probabilities) of all choices, one forward of the judge each."""
    totals, probs = [], []
    for text in TEXTS:
        events = []
        answers = roll_out(
            tiny_model("llama"), make_tokenizer(), [text], s2t=config, on_step=events.append,
            max_new_tokens=12, **who,
        )  # fmt: skip
        ((prompt, response),) = answers.pairs
        for event in events:
            if event.triggered[0]:
                prefix = torch.tensor([[*prompt, *response[: event.step]]])
                logits = judge.model(prefix).logits[0, -1].double()
                probs.append(logits.softmax(-1)[event.candidates[0]])
                totals.append(event.scores[0])
    totals = torch.stack(totals)
    return totals, torch.ones_like(totals, dtype=torch.bool), torch.stack(probs)


def test_the_choices_judged_are_those_of_decoding(chooser, judge):
    found = s2t_ext.calibrate_margin(
        tiny_model("llama"), make_tokenizer(), judge, TEXTS, CHOOSES, teacher=chooser,
        harm_limit=1.0, **OPTIONS,
    )  # fmt: skip
    totals, mask, probs = choices_of(judge, CHOOSES, teacher=chooser)
    assert found.choices == len(totals) > 10
    for margin, counts in ((0.0, found.before), (found.margin, found.after)):
        expected = count_overrides(totals, mask, probs, margin)
        assert replace(counts, teacher_gain=0.0) == replace(expected, teacher_gain=0.0)
        assert counts.teacher_gain == pytest.approx(expected.teacher_gain, rel=1e-4)
    assert found.before.overrides > 3 and found.before.harmful > 0


@pytest.mark.parametrize("limit", [0.0, 0.3, 0.5])
def test_the_limit_holds_and_a_margin_of_the_configuration_is_left_aside(limit, chooser, judge):
    margins = [
        s2t_ext.calibrate_margin(
            tiny_model("llama"), make_tokenizer(), judge, TEXTS, config, teacher=chooser,
            harm_limit=limit, **OPTIONS,
        )
        for config in (CHOOSES, CHOOSES.with_options(override_margin=3.0, score_temperature=1.0))
    ]  # fmt: skip
    assert margins[0] == margins[1]
    after = margins[0].after
    assert after.harmful <= limit * after.overrides
    assert margins[0].to_dict()["override_margin"] == margins[0].margin


def test_a_selectors_choices(judge):
    model = tiny_model("llama")
    selector = full_selector(model)
    config = CHOOSES.with_options(select="local", proposer="adapted")
    found = s2t_ext.calibrate_margin(
        model, make_tokenizer(), judge, TEXTS, config, selector=selector, **OPTIONS
    )
    expected = count_overrides(*choices_of(judge, config, selector=selector))
    assert replace(found.before, teacher_gain=0.0) == replace(expected, teacher_gain=0.0)


def test_nothing_chosen_needs_no_margin(chooser, judge):
    config = CHOOSES.with_options(threshold=1e9)
    found = s2t_ext.calibrate_margin(
        tiny_model("llama"), make_tokenizer(), judge, TEXTS, config, teacher=chooser, **OPTIONS
    )
    assert (found.margin, found.choices, found.before.overrides) == (0.0, 0, 0)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["after"]["harm_rate"] is None


def test_bad_arguments(chooser, judge):
    def refused(prompts=TEXTS, config=CHOOSES, **more):
        with pytest.raises(ValueError) as error:
            s2t_ext.calibrate_margin(
                tiny_model("llama"), make_tokenizer(), judge, prompts, config, teacher=chooser,
                **OPTIONS, **more,
            )  # fmt: skip
        return str(error.value)

    assert refused(harm_limit=1.5) == "calibrate_margin: harm_limit must be in [0, 1], got 1.5"
    assert refused(harm_limit="0.2").startswith("calibrate_margin: harm_limit must be a number")
    assert refused(prompts=()) == "calibrate_margin: prompts must hold at least one text, got none"
    assert "s2t.select must choose among candidates" in refused(
        config=CHOOSES.with_options(select="takeover")
    )
