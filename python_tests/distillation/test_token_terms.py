"""Training towards the teacher or the responses: the terms by their formulas, and what a run of
them alone leaves: a plain adapter or model.
"""

import json
from dataclasses import replace

import pytest
import torch
from collecting import make_model, run_collect
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model

import s2t_ext
from s2t_ext import S2TConfig
from s2t_ext.demo.pretrain import make_tokenizer
from s2t_ext.distillation.losses import LossConfig
from s2t_ext.distillation.objective import Counts, ObjectiveMaker
from s2t_ext.distillation.options import DistillConfig
from s2t_ext.distillation.packing import pack
from s2t_ext.distillation.score_head import ScoreHead
from s2t_ext.distillation.token_terms import StepLabels
from s2t_ext.distillation.train import distill

FAST = dict(epochs=8, batch_size=2, learning_rate=2e-2, lora_r=4, bins=5, k=3)
GKD = LossConfig(base_kl_weight=0.0, teacher_kl_weight=1.0)
SFT = LossConfig(base_kl_weight=0.0, sft_weight=1.0)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collected")
    return run_collect(folder, held_out=0.3, rollouts=2, teacher_topk=6)


def adapted(seed=1):
    model = get_peft_model(make_model(seed), LoraConfig(r=3, target_modules="all-linear"))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.double()


@pytest.mark.parametrize("head_is_trained", [False, True])
def test_the_terms_are_their_formulas(monkeypatch, collection, head_is_trained):
    """In pieces and packed with candidates, beside plain forwards of each trajectory."""
    monkeypatch.setattr("s2t_ext.distillation.token_terms.LOGIT_ROWS", 4)
    model = adapted()
    model.get_output_embeddings().requires_grad_(head_is_trained)
    trajectories = collection.trajectories("train")[:3]
    tokens, reserved = collection.teacher_tokens(), [3]
    config = LossConfig(base_kl_weight=0.0, teacher_kl_weight=0.7, sft_weight=0.3)
    head = ScoreHead(32, bins=4, dtype=torch.float64, seed=3)
    maker = ObjectiveMaker(model, head, config, reserved_ids=reserved)
    counts = Counts.of(trajectories)
    labels = StepLabels.of(trajectories, tokens)
    found = maker.packed_objective(pack(trajectories), counts, labels)

    divergence = nll = torch.zeros((), dtype=torch.float64)
    for trajectory in trajectories:
        ids = torch.tensor([[*trajectory.prompt, *trajectory.response]])
        logits = model(ids).logits[0, len(trajectory.prompt) - 1 : -1]
        q = logits.index_fill(1, torch.tensor(reserved), float("-inf")).softmax(1)
        nll = nll - q[range(len(q)), list(trajectory.response)].log().sum()
        best, logprobs = tokens.of([trajectory])
        p = logprobs.double().exp()
        p[:, :-1] *= ~torch.isin(best, torch.tensor(reserved))
        p = p / p.sum(1, keepdim=True)
        own = q.gather(1, best)
        shares = torch.cat([own, 1 - own.sum(1, keepdim=True)], dim=1)
        kept = p > 0
        divergence = divergence + (p[kept] * (p[kept] / shares[kept]).log()).sum()
    expected = {"teacher_kl": 0.7 * divergence / counts.steps, "sft": 0.3 * nll / counts.steps}
    trained = [p for p in model.parameters() if p.requires_grad]
    for name, value in expected.items():
        actual = getattr(found, name)
        torch.testing.assert_close(actual, value, rtol=1e-7, atol=1e-9)
        pairs = (
            torch.autograd.grad(term, trained, retain_graph=True, allow_unused=True)
            for term in (actual, value)
        )
        for own, other in zip(*pairs, strict=True):
            assert (own is None) == (other is None)
            if own is not None:
                torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-8)
    assert float(found.base_kl) == 0


def fit_lines(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["held_out_tokens"] for line in lines if "held_out_tokens" in line]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_on_policy_distillation_leaves_a_plain_model(tmp_path, collection, method):
    """One that comes near the teacher, and that generates without a selector."""
    make_model(1).save_pretrained(tmp_path / "student")
    student = type(make_model(1)).from_pretrained(tmp_path / "student").eval()
    rate = 2e-2 if method == "lora" else 3e-3
    options = {**FAST, "learning_rate": rate}
    config = DistillConfig(method=method, objective="tokens", loss=GKD, **options)
    result = distill(student, collection, tmp_path / "run", config)
    before, after = fit_lines(tmp_path / "run")[0], result.tokens
    assert result.selector is None and result.quality is None
    assert after.teacher_kl < 0.9 * before["teacher_kl"]
    assert json.loads((tmp_path / "run" / "quality.json").read_text()) == after.to_dict()
    assert not (tmp_path / "run" / "selector").exists()

    if method == "lora":
        plain = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "run" / "adapter")
    else:
        plain = type(student).from_pretrained(tmp_path / "run" / "model")
    ids = torch.tensor([make_tokenizer()("1 2 3").input_ids])
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, student(ids).logits)
    options = dict(max_new_tokens=8, do_sample=False)
    ours = s2t_ext.generate(plain, ids, s2t=S2TConfig(trigger="never"), **options)
    assert torch.equal(ours, plain.generate(ids, **options))


def test_supervised_fine_tuning_makes_the_responses_likely(tmp_path, collection):
    config = DistillConfig(objective="tokens", loss=SFT, **FAST)
    lines = []
    result = distill(make_model(1), collection, tmp_path, config)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss_sft"] for line in lines if "loss_sft" in line]
    assert losses[-1] < 0.8 * losses[0]
    assert result.tokens.teacher_kl is None and result.tokens.nll > 0
    assert {line["loss_groups"] for line in lines if "loss_groups" in line} == {0.0}


def test_one_run_gives_a_selector_and_a_distilled_student(tmp_path, collection):
    config = DistillConfig(loss=replace(GKD, teacher_kl_weight=5.0), **FAST)
    result = distill(make_model(1), collection, tmp_path, config)
    assert result.selector is not None and result.quality is not None
    fits = fit_lines(tmp_path)
    assert result.tokens.teacher_kl < 0.9 * fits[0]["teacher_kl"]
    assert result.tokens.teacher_kl == pytest.approx(fits[-1]["teacher_kl"], rel=1e-4)


def test_it_resumes_to_the_same_adapter(tmp_path, collection, monkeypatch):
    from s2t_ext.distillation.run import TrainingRun

    config = DistillConfig(objective="tokens", loss=GKD, **{**FAST, "checkpoint_every": 2})
    distill(make_model(1), collection, tmp_path / "peace", config)
    optimize = TrainingRun.optimize

    def interrupted(run, step, number, total):
        if number == 5:
            raise KeyboardInterrupt
        return optimize(run, step, number, total)

    monkeypatch.setattr(TrainingRun, "optimize", interrupted)
    with pytest.raises(KeyboardInterrupt):
        distill(make_model(1), collection, tmp_path / "war", config)
    monkeypatch.setattr(TrainingRun, "optimize", optimize)
    distill(make_model(1), collection, tmp_path / "war", config)
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "peace" / name).read_bytes() == (tmp_path / "war" / name).read_bytes()


def test_an_adapter_on_some_modules(tmp_path, collection):
    options = {**FAST, "epochs": 1}
    config = DistillConfig(loss=GKD, objective="tokens", lora_targets=("q_proj",), **options)
    distill(make_model(1), collection, tmp_path / "a", config)
    written = json.loads((tmp_path / "a" / "adapter" / "adapter_config.json").read_text())
    assert written["target_modules"] == ["q_proj"] and written["r"] == 4
    assert DistillConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    config = replace(config, lora_targets=("q_proj", "proj"))
    with pytest.raises(ValueError, match="distill: lora_targets must name modules .*, got proj"):
        distill(make_model(1), collection, tmp_path / "b", config)


def test_errors(tmp_path, collection):
    plain = run_collect(tmp_path / "plain", held_out=0.3)
    rule = r"distill: collection must hold the teacher's likeliest tokens \(collect with"
    with pytest.raises(ValueError, match=rule):
        distill(make_model(1), plain, tmp_path / "a", DistillConfig(loss=GKD, **FAST))
    config = DistillConfig(objective="tokens", loss=GKD, **FAST)
    start = s2t_ext.Selector(torch.randn(5, 32))
    with pytest.raises(ValueError, match="distill: start must be None for objective='tokens'"):
        distill(make_model(1), collection, tmp_path / "b", config, start=start)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(objective="both"), "objective must be one of selector, tokens, got 'both'"),
        (dict(method="rows", loss=GKD), "method must be lora or full where tokens are .*'rows'"),
        (dict(objective="tokens"), "loss must have teacher_kl_weight or sft_weight above 0"),
        (dict(lora_alpha=0), "lora_alpha must be at least 1, got 0"),
    ],
)
def test_config_errors(options, message):
    with pytest.raises(ValueError, match=f"DistillConfig: {message}"):
        DistillConfig(**options)
