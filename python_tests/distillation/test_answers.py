"""Collecting without a teacher: which answers stay, and what is trained on them."""

from dataclasses import replace

import pytest
import torch
from collecting import FAST, PROMPTS, make_model, model_that_ends
from transformers import LlamaConfig, LlamaForCausalLM

from s2t_ext import LossConfig, S2TConfig
from s2t_ext.demo.pretrain import make_tokenizer
from s2t_ext.distillation.data.answers import check_answers_tokenizer, collect_answers
from s2t_ext.distillation.data.collection import SPLITS
from s2t_ext.distillation.groups import Trajectory
from s2t_ext.distillation.objective import Counts, ObjectiveMaker
from s2t_ext.distillation.options import DistillConfig
from s2t_ext.distillation.packing import pack
from s2t_ext.distillation.score_head import ScoreHead
from s2t_ext.distillation.token_terms import StepLabels
from s2t_ext.distillation.train import distill
from s2t_ext.evaluation.answer_filters import MajorityAnswers, RightAnswers
from s2t_ext.evaluation.tasks import Problem
from s2t_ext.rollouts import roll_out
from s2t_ext.runs.seeds import row_seed

ENDS = model_that_ends(1).generation_config.eos_token_id
SFT = LossConfig(base_kl_weight=0.0, sft_weight=1.0, trigger_weight=0.0)
OPTIONS = dict(
    rollouts=3, temperature=1.0, max_new_tokens=40, batch_size=6, held_out=0.3, held_out_by="prompt"
)


class EvenLength:
    """Keeps texts of an even number of characters, and remembers what it was asked."""

    name = "even"

    def __init__(self):
        self.asked = []

    def __call__(self, prompts, texts):
        self.asked.append(list(prompts))
        return [len(text) % 2 == 0 for text in texts]


def run(folder, **options):
    options = {**OPTIONS, "use_chat_template": False, "seed": 4, **options}
    return collect_answers(model_that_ends(1), make_tokenizer(), PROMPTS, folder, **options)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return run(tmp_path_factory.mktemp("answers"))


def every_answer():
    """What the model says, one answer at a time."""
    model, tokenizer = model_that_ends(1), make_tokenizer()
    for number in range(3 * len(PROMPTS)):
        [pair] = roll_out(
            model,
            tokenizer,
            [PROMPTS[number // 3]],
            s2t=S2TConfig(trigger="never"),
            temperature=OPTIONS["temperature"],
            max_new_tokens=OPTIONS["max_new_tokens"],
            seeds=[row_seed(4, number)],
        ).pairs
        yield str(number), *pair


def test_answers_that_end_and_are_approved_stay(tmp_path):
    """None is lost, none is added, whatever the batch; the answers to a prompt come together."""
    keep, tokenizer = EvenLength(), make_tokenizer()
    collection = run(tmp_path / "some", keep=keep)
    found = {t.key: t for split in SPLITS for t in collection.trajectories(split)}
    expected = {
        key: Trajectory(key, tuple(prompt), tuple(response), ())
        for key, prompt, response in every_answer()
        if response[-1] in ENDS
        and len(tokenizer.decode(response, skip_special_tokens=True)) % 2 == 0
    }
    assert found == expected and 0 < len(found) < 3 * len(PROMPTS)
    assert keep.asked == [[2 * i] * 3 + [2 * i + 1] * 3 for i in range(len(PROMPTS) // 2)]
    splits = {split: collection.trajectories(split) for split in SPLITS}
    prompts = {split: {t.prompt for t in some} for split, some in splits.items()}
    assert prompts["held_out"] and not prompts["held_out"] & prompts["train"]

    assert run(tmp_path / "some", keep=EvenLength()).digest() == collection.digest()  # goes on
    with pytest.raises(ValueError, match="collect: output must .* differs in keep"):
        run(tmp_path / "some")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(batch_size=4), r"collect_answers: batch_size must be a multiple of rollouts \(3\)"),
        (dict(temperature=0.0), "rollouts must be 1 at temperature 0"),
        (dict(held_out=1.0), r"held_out must be in \[0, 1\), got 1.0"),
        (dict(held_out_by="day"), "held_out_by must be one of group, prompt, got day"),
        (dict(rollouts=0), "rollouts must be at least 1, got 0"),
    ],
)
def test_options_that_do_not_fit(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "none", **options)
    assert not (tmp_path / "none").exists()


def negative_log_likelihood(model, answers):
    """Mean over the tokens of the answers, by one forward pass each."""
    losses = []
    for answer in answers:
        logits = model(torch.tensor([[*answer.prompt, *answer.response]])).logits[0]
        logprobs = logits[len(answer.prompt) - 1 : -1].log_softmax(-1)
        losses.append(-logprobs.gather(1, torch.tensor(answer.response)[:, None]))
    return torch.cat(losses).mean()


def test_every_token_of_an_answer_counts(collection):
    """The objective of answers is the mean negative log-likelihood of their tokens."""
    model = make_model(2).double()
    maker = ObjectiveMaker(model, ScoreHead(32, bins=4, dtype=torch.float64, seed=3), SFT)
    answers = collection.trajectories("train")[:3]
    labels = StepLabels.of(answers, None)
    found = maker.packed_objective(pack(answers), Counts.of(answers), labels)
    torch.testing.assert_close(found.sft, negative_log_likelihood(model, answers))
    torch.testing.assert_close(found.total, found.sft)


def test_another_model_learns_from_them(tmp_path, collection):
    """Answers bind nobody: a model of other sizes is trained on them."""
    config = DistillConfig(method="full", objective="tokens", loss=SFT, **{**FAST, "epochs": 4})
    torch.manual_seed(5)
    sizes = LlamaConfig(
        vocab_size=len(make_tokenizer()), hidden_size=16, intermediate_size=24,
        num_hidden_layers=2, num_attention_heads=2, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(sizes).eval()
    answers = collection.trajectories("train")
    before = negative_log_likelihood(model, answers)
    result = distill(model, collection, tmp_path / "run", config)
    assert negative_log_likelihood(model, answers) < before - 0.1
    assert result.selector is None and result.tokens.teacher_kl is None and result.tokens.nll > 0


def test_what_answers_cannot_do(tmp_path, collection):
    with pytest.raises(ValueError, match="must hold answers .* only objective='tokens' learns"):
        distill(make_model(1), collection, tmp_path / "selector", DistillConfig(**FAST))
    config = DistillConfig(objective="tokens", loss=replace(SFT, teacher_kl_weight=1.0), **FAST)
    with pytest.raises(ValueError, match="must hold the teacher's likeliest tokens"):
        distill(make_model(1), collection, tmp_path / "gkd", config)
    small = LlamaConfig(vocab_size=8, hidden_size=16, num_attention_heads=2, num_hidden_layers=1)
    config = DistillConfig(objective="tokens", loss=SFT, **FAST)
    with pytest.raises(ValueError, match="model must know every token of the .* got 8 of them"):
        distill(LlamaForCausalLM(small), collection, tmp_path / "small", config)
    check_answers_tokenizer(collection, make_tokenizer())
    other = make_tokenizer()
    other.add_tokens(["another"])
    with pytest.raises(ValueError, match="must hold answers in the model's own tokens"):
        check_answers_tokenizer(collection, other)


def test_answers_that_the_key_confirms():
    pytest.importorskip("math_verify")
    problems = [Problem("a", "", "2 + 2?", "4"), Problem("b", "", "3 + 3?", "6")]
    texts = ["so \\boxed{4}", "so \\boxed{5}", "\\boxed{\\frac{12}{2}}", "no idea"]
    assert RightAnswers(problems)([0, 0, 1, 1], texts) == [True, False, True, False]


def test_answers_of_the_majority():
    """More than half of a prompt's answers; equal results count together; others' do not."""
    pytest.importorskip("math_verify")
    problems = [Problem(key, "", "?", "") for key in "abc"]
    texts = ["\\boxed{0.5}", "\\boxed{\\frac{1}{2}}", "\\boxed{7}"]  # two of three
    texts += ["\\boxed{7}", "none", "none"]  # one of three
    texts += ["\\boxed{1}", "\\boxed{2}", "\\boxed{1}"]
    prompts = [0, 0, 0, 1, 1, 1, 2, 2, 2]
    kept = MajorityAnswers(problems)(prompts, texts)
    assert kept == [True, True, False, False, False, False, True, False, True]
    with pytest.raises(ValueError, match="problems must have short answers, got code: d"):
        MajorityAnswers([*problems, Problem("d", "", "?", "", kind="code")])
