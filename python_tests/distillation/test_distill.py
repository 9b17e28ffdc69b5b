"""Training a selector: it learns, it is saved and decodes, and a killed run resumes to the same."""

import json

import pytest
import torch
from collecting import FAST, PROMPTS, make_model, run_collect
from peft import PeftModel
from safetensors.torch import load_file

import s2t_ext
from s2t_ext import S2TConfig, Selector
from s2t_ext.demo.pretrain import make_tokenizer
from s2t_ext.distillation.data.collection import Collection
from s2t_ext.distillation.losses import LossConfig
from s2t_ext.distillation.options import DistillConfig
from s2t_ext.distillation.preparation import prepare
from s2t_ext.distillation.run import TrainingRun
from s2t_ext.distillation.train import distill


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return run_collect(tmp_path_factory.mktemp("collected"), held_out=0.3, rollouts=2)


def files(folder):
    """Everything a run leaves, without its times."""
    tensors = {p.name: load_file(p) for p in sorted((folder / "selector").glob("*.safetensors"))}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds", None)
    return tensors, lines, json.loads((folder / "quality.json").read_text())


@pytest.mark.parametrize(
    ("method", "with_start", "width"),
    [
        ("lora", False, 0),
        ("rows", False, 0),
        ("full", False, 0),
        ("rows", True, 0),
        ("rows", False, 12),
    ],
)
def test_interrupted_anywhere_it_resumes_to_the_same_result(
    tmp_path, collection, method, with_start, width, monkeypatch
):
    start = Selector(torch.randn(FAST["bins"], 32)) if with_start else None
    config = DistillConfig(method=method, lora_dropout=0.1, head_width=width, **FAST)
    distill(make_model(1), collection, tmp_path / "peace", config, start=start)
    expected = files(tmp_path / "peace")
    steps = [line["step"] for line in expected[1] if "loss_groups" in line]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 6

    optimize = TrainingRun.optimize
    for stop in (1, 3, len(steps) - 1):  # before a checkpoint, after one, in the last epoch

        def interrupted(run, step, number, total, stop=stop):
            if number == stop:
                raise KeyboardInterrupt
            return optimize(run, step, number, total)

        monkeypatch.setattr(TrainingRun, "optimize", interrupted)
        with pytest.raises(KeyboardInterrupt):
            distill(make_model(1), collection, tmp_path / "war", config, start=start)
    monkeypatch.setattr(TrainingRun, "optimize", optimize)
    torch.manual_seed(99)  # the resumed run must not depend on the random state it finds
    distill(make_model(1), collection, tmp_path / "war", config, start=start)
    actual = files(tmp_path / "war")
    assert actual[1:] == expected[1:]
    for name, tensors in expected[0].items():
        for key, value in tensors.items():
            assert torch.equal(actual[0][name][key], value), f"{name}: {key}"


@pytest.mark.parametrize("method", ["lora", "rows", "full"])
@pytest.mark.parametrize("kind", ["top1", "kl", "pairwise"])
def test_it_learns_the_training_groups(tmp_path, collection, method, kind):
    options = {**FAST, "epochs": 12}
    loss = LossConfig(kind, base_kl_weight=0.01)
    distill(make_model(1), collection, tmp_path, DistillConfig(method=method, loss=loss, **options))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss_groups"] for line in lines if "loss_groups" in line]
    quarter = len(losses) // 4
    assert sum(losses[-quarter:]) < 0.8 * sum(losses[:quarter])  # the rows alone reach about 0.6
    held_out = [line for line in lines if "held_out" in line]
    # Before training, after every epoch, and what the selector is saved with.
    assert len(held_out) == 14 and held_out[-1]["settled"]
    assert held_out[-1]["held_out"] == json.loads((tmp_path / "quality.json").read_text())


@pytest.mark.parametrize("method", ["lora", "rows", "full"])
def test_the_selector_is_saved_calibrated_and_decodes(tmp_path, collection, method):
    config = DistillConfig(method=method, **FAST)
    result = distill(make_model(1), collection, tmp_path, config, trigger_rate=0.25)
    assert (
        result.quality.net_recall >= 0
    )  # of nothing but overrides that break, none is let through
    # A trigger head is kept where it finds as many steps as the entropy, at the same rate.
    has_head = result.quality.trigger_recall >= result.quality.entropy_recall
    assert (result.selector.trigger_head is not None) == has_head
    assert set(result.selector.calibrations) == {"entropy", "kl", *(["head"] if has_head else [])}
    assert result.selector.calibrations["entropy"].rate == pytest.approx(0.25, abs=0.1)

    student = make_model(1)
    if method == "full":
        student = type(student).from_pretrained(tmp_path / "model").eval()
    selector = Selector.from_pretrained(tmp_path / "selector", student)
    assert selector.prior_weight == result.selector.prior_weight
    assert (selector.adapted_model is not None) == (method == "lora")
    model = selector.adapted_model if method == "lora" else student
    assert isinstance(model, PeftModel) == (method == "lora")
    inputs = make_tokenizer()(PROMPTS[:2], return_tensors="pt", padding=True)
    for trigger in ("always", "entropy", *(["head"] if has_head else [])):
        output = s2t_ext.generate(
            model,
            inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            selector=selector,
            s2t=S2TConfig(k=3, trigger=trigger, warmup_steps=0),
            max_new_tokens=6,
            do_sample=False,
            return_dict_in_generate=True,
        )
        assert output.s2t.steps > 0


def test_what_training_scores_is_what_decoding_scores(tmp_path, collection):
    """The trained score head and the kernel agree on the same hidden states."""
    distill(make_model(1), collection, tmp_path, DistillConfig(method="lora", **FAST))
    model = make_model(1)
    selector = Selector.from_pretrained(tmp_path / "selector", model)
    config = DistillConfig(method="lora", **FAST)
    run = TrainingRun(prepare(make_model(1), collection, config), tmp_path, config)
    run.state.restore({"model": run.model, "head": run.head}, run.optimizer)
    run.model.eval()
    trajectory = run.parts.held_out[0]
    group = trajectory.groups[-1]
    prefix = [*trajectory.prompt, *trajectory.response[: group.step]]
    ids = torch.tensor([[*prefix, c] for c in group.candidates])
    with torch.no_grad():
        hidden = run.parts.maker.packed.plain_hidden_states(ids)[:, -1]
        expected = run.head.scores(hidden)
        served = selector.adapted_model.base_model.model.model(ids).last_hidden_state[:, -1]
    torch.testing.assert_close(selector.score(served), expected, rtol=1e-4, atol=1e-5)


def test_the_base_term_holds_the_model_back(tmp_path, collection):
    def drift(weight):
        loss = LossConfig(base_kl_weight=weight)
        options = {**FAST, "epochs": 6, "learning_rate": 2e-2}
        folder = tmp_path / str(weight)
        distill(make_model(1), collection, folder, DistillConfig(loss=loss, **options))
        model = Selector.from_pretrained(folder / "selector", make_model(1)).adapted_model
        t = collection.trajectories("held_out")[0]
        ids = torch.tensor([[*t.prompt, *t.response]])
        with torch.no_grad():
            p, q = make_model(1)(ids).logits.log_softmax(-1), model(ids).logits.log_softmax(-1)
        return float((p.exp() * (p - q)).sum(-1).mean())

    assert drift(30.0) < 0.5 * drift(0.0)


def test_without_prior_its_weight_stays_zero(tmp_path, collection):
    config = DistillConfig(method="rows", prior="none", **FAST)
    assert distill(make_model(1), collection, tmp_path, config).selector.prior_weight == 0.0


class PackedWeight(torch.nn.Parameter):
    """Not stored as plain numbers, as far as anybody can tell."""


def test_a_student_whose_weights_are_quantised_is_known_by_its_embeddings(tmp_path, collection):
    model = make_model(1)
    model.model.norm.weight = PackedWeight(model.model.norm.weight.data)
    assert distill(model, collection, tmp_path, DistillConfig(**FAST)).selector is not None


def test_errors(tmp_path, collection):
    config = DistillConfig(**FAST)
    with pytest.raises(ValueError, match="model must be the collection's student .fingerprint"):
        distill(make_model(5), collection, tmp_path / "a", config)
    tuned = make_model(1)
    tuned.model.layers[0].mlp.down_proj.weight.data.mul_(1.5)
    with pytest.raises(ValueError, match="model must be the collection's student .weights"):
        distill(tuned, collection, tmp_path / "a", config)
    with pytest.raises(ValueError, match="model must be the collection's student .num_hidden"):
        distill(make_model(1, layers=2), collection, tmp_path / "a", config)
    distill(make_model(1), collection, tmp_path / "b", config)
    with pytest.raises(ValueError, match="run of the same options and data, .* differs in epochs"):
        distill(make_model(1), collection, tmp_path / "b", DistillConfig(**{**FAST, "epochs": 3}))
    with pytest.raises(ValueError, match=r"distill: trigger_rate must be in \(0, 1\), got 5"):
        distill(make_model(1), collection, tmp_path / "e", config, trigger_rate=5)
    empty = Collection.open_for_writing(tmp_path / "c", collection.manifest["settings"], 1)
    with pytest.raises(ValueError, match="collection must hold groups in its train split"):
        distill(make_model(1), empty, tmp_path / "d", config)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(method="qlora"), "method must be one of lora, rows, full, got 'qlora'"),
        (dict(prior="maybe"), "prior must be one of trained, fitted, none, got 'maybe'"),
        (dict(epochs=0), "epochs must be at least 1, got 0"),
        (dict(learning_rate=0.0), "learning_rate must be above 0, got 0.0"),
        (dict(bins=65), r"bins must be in \[2, 64\], got 65"),
    ],
)
def test_config_errors(options, message):
    with pytest.raises(ValueError, match=f"DistillConfig: {message}"):
        DistillConfig(**options)
