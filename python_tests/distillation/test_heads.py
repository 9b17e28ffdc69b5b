"""Heads that training begins with, and trigger heads that it does not leave."""

import json
import shutil

import pytest
import torch
from collecting import FAST, make_model, run_collect

from s2t_ext import Selector
from s2t_ext.distillation.options import DistillConfig
from s2t_ext.distillation.quality.held_out import HeldOut
from s2t_ext.distillation.score_head import ScoreHead, head_digest
from s2t_ext.distillation.train import distill
from s2t_ext.selectors.parts import TriggerHead


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return run_collect(tmp_path_factory.mktemp("collected"), held_out=0.3, rollouts=2)


@pytest.fixture
def every_trigger_head(monkeypatch):
    """Trigger heads are kept though, of models this small, the entropy finds more."""
    monkeypatch.setattr(HeldOut, "trigger_is_worth_it", lambda *_: True)


@pytest.mark.parametrize("kept", [True, False])
def test_a_trigger_head_worse_than_the_entropy_is_not_offered(
    tmp_path, collection, monkeypatch, kept
):
    monkeypatch.setattr(HeldOut, "trigger_is_worth_it", lambda *_: kept)
    config = DistillConfig(method="rows", **{**FAST, "epochs": 1})
    distill(make_model(1), collection, tmp_path, config)
    selector = Selector.from_pretrained(tmp_path / "selector")
    assert (selector.trigger_head is not None) == ("head" in selector.calibrations) == kept
    assert not kept or selector.trigger_head.entropy_weight != 0


@pytest.mark.parametrize("method", ["lora", "rows"])
@pytest.mark.usefixtures("every_trigger_head")
def test_it_can_begin_with_a_head_that_was_trained_before(tmp_path, collection, method):
    """Before its first step it then is as good as the selector it began with."""
    config = DistillConfig(method="rows", **FAST)
    first = distill(make_model(1), collection, tmp_path / "first", config)
    config = DistillConfig(method=method, **FAST)
    second = distill(
        make_model(1), collection, tmp_path / method, config, start=tmp_path / "first" / "selector"
    )
    first_line = (tmp_path / method / "metrics.jsonl").read_text().splitlines()[0]
    before = json.loads(first_line)["held_out"]
    for name in ("score_agreement", "trigger_auc", "trigger_recall"):
        assert before[name] == pytest.approx(first.quality.to_dict()[name], abs=1e-6)
    assert not torch.equal(second.selector.rows, first.selector.rows)
    with pytest.raises(ValueError, match="run of the same options and data, .* differs in start"):
        distill(make_model(1), collection, tmp_path / method, config)


@pytest.mark.usefixtures("every_trigger_head")
def test_a_head_takes_over_another_but_not_what_held_out_groups_decided(tmp_path, collection):
    config = DistillConfig(method="rows", **FAST)
    first = distill(make_model(1), collection, tmp_path, config).selector
    first.prior_weight = 1000.0
    head = ScoreHead(first.hidden_size, bins=5, num_logprobs=3, seed=9)
    head.start_from(first)
    assert torch.equal(head.rows, first.rows) and torch.equal(head.bias, first.bias)
    assert torch.equal(head.trigger_weight, first.trigger_head.weight)
    assert float(head.trigger_bias) == pytest.approx(first.trigger_head.bias)
    assert float(head.prior_weight) == pytest.approx(0.1)
    known = head_digest(first)
    first.trigger_head = TriggerHead(first.trigger_head.weight, first.trigger_head.bias + 1)
    assert head_digest(first) != known


def test_the_trigger_reads_log_probabilities_where_the_collection_has_them(tmp_path, collection):
    """Of decoding's k = 3 candidates; a collection without them is said to have none."""
    config = DistillConfig(method="rows", **FAST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HeldOut, "trigger_is_worth_it", lambda *_: True)
        head = distill(make_model(1), collection, tmp_path / "a", config).selector.trigger_head
        assert head.num_logprobs == 3 and bool(head.logprob_weights.all())
        older = tmp_path / "older"
        shutil.copytree(collection.folder, older)
        for path in older.glob("trajectories-*.jsonl"):
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            kept = [{n: v for n, v in line.items() if n != "top_logprobs"} for line in lines]
            path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        with pytest.warns(UserWarning, match="reads the states and the entropy alone"):
            result = distill(make_model(1), older, tmp_path / "b", config)
        assert result.selector.trigger_head.num_logprobs == 0
        with pytest.warns(UserWarning), pytest.raises(ValueError, match="3 a step; collect again"):
            distill(make_model(1), older, tmp_path / "c", config, start=tmp_path / "a" / "selector")


def test_heads_it_cannot_begin_with(tmp_path, collection):
    config = DistillConfig(method="rows", **FAST)
    first = distill(make_model(1), collection, tmp_path / "a", config).selector
    wide = DistillConfig(method="rows", **{**FAST, "bins": 7})
    with pytest.raises(ValueError, match="^distill: start must have num_bins 7, got 5"):
        distill(make_model(1), collection, tmp_path / "b", wide, start=first)
    first.base_model["fingerprint"] = "another"
    with pytest.raises(ValueError, match="^distill: start must belong to the model .fingerprint"):
        distill(make_model(1), collection, tmp_path / "b", config, start=first)
    lora = distill(make_model(1), collection, tmp_path / "c", DistillConfig(**FAST)).selector
    with pytest.raises(ValueError, match="^distill: start must have no adapter"):
        distill(make_model(1), collection, tmp_path / "b", config, start=lora)
