"""Score heads with a hidden layer on the states of a middle layer: they learn, and decode alike."""

import json

import pytest
import torch
from collecting import FAST, make_model, run_collect

from s2t_ext import Selector
from s2t_ext.distillation.options import DistillConfig
from s2t_ext.distillation.preparation import prepare
from s2t_ext.distillation.run import TrainingRun
from s2t_ext.distillation.score_head import ScoreHead
from s2t_ext.distillation.train import distill
from s2t_ext.hf.layer_trace import decoder_layer, tracing_layer

OPTIONS = {**FAST, "epochs": 8, "head_width": 12, "head_layer": 1, "head_dropout": 0.0}


@pytest.fixture(scope="module")
def deeper(tmp_path_factory):
    return run_collect(tmp_path_factory.mktemp("deeper"), 2, held_out=0.3, rollouts=2)


@pytest.mark.parametrize("method", ["lora", "rows"])
def test_a_hidden_layer_on_a_middle_layer(tmp_path, deeper, method):
    """It learns, what it scores is what decoding scores, and another run can begin with it."""
    config = DistillConfig(method=method, **OPTIONS)
    trained = distill(make_model(1, 2), deeper, tmp_path / "run", config).selector
    assert trained.layer == 1 and trained.rows.shape == (5, 12)
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss_groups"] for line in lines if "loss_groups" in line]
    quarter = len(losses) // 4
    assert sum(losses[-quarter:]) < 0.9 * sum(losses[:quarter])

    run = TrainingRun(prepare(make_model(1, 2), deeper, config), tmp_path / "run", config)
    run.state.restore({"model": run.model, "head": run.head}, run.optimizer)
    run.model.eval(), run.head.eval()
    model = make_model(1, 2)
    selector = Selector.from_pretrained(tmp_path / "run" / "selector", model)
    trajectory = run.parts.held_out[0]
    group = trajectory.groups[-1]
    prefix = [*trajectory.prompt, *trajectory.response[: group.step]]
    ids = torch.tensor([[*prefix, c] for c in group.candidates])
    with torch.no_grad(), tracing_layer(decoder_layer(model, 1)) as trace:
        expected = run.head.scores(run.parts.maker.packed.plain_states(ids)[:, -1])
        model(ids)
    torch.testing.assert_close(selector.score(trace.hidden[:, -1]), expected, rtol=1e-4, atol=1e-5)

    if method == "rows":
        form = dict(bins=5, num_logprobs=len(trained.trigger_head.logprob_weights))
        again = ScoreHead(selector.hidden_size, **form, width=12, layer=1, seed=9)
        again.start_from(trained)
        states = torch.randn(3, selector.hidden_size)
        torch.testing.assert_close(again.scores(states), trained.score(states))
        plain = ScoreHead(selector.hidden_size, **form)
        with pytest.raises(ValueError, match="same form, got one with 12 hidden units on layer 1"):
            plain.start_from(trained)
