"""The demo: its problems, its models, its command."""

import dataclasses
import itertools
import json
import re

import pytest
import torch
from typer.testing import CliRunner

from s2t_ext.cli import app
from s2t_ext.demo import ASSETS, build, words
from s2t_ext.demo.compare import METHODS, held_out_problems, run_method
from s2t_ext.demo.models import MAX_NEW_TOKENS, Demo
from s2t_ext.demo.pretrain import Recipe, encode, make_tokenizer, pretrain
from s2t_ext.demo.problems import SPLITS, answer_of, problems, split_of, vocabulary


def take(split, count, seed=0):
    return list(itertools.islice(problems(split, seed), count))


def solve(prompt):
    """The answer, from the prompt alone."""
    value = int(re.match(r"\w+ has (\d+) ", prompt)[1])
    for verb, change in re.findall(r"(?:one|two|three|four|five|six) (\w+) (\d+) \.", prompt):
        assert (verb in words.GAINS) != (verb in words.LOSSES)
        value += int(change) if verb in words.GAINS else -int(change)
    return value


def test_solutions_are_right():
    for problem in take("dev", 200):
        assert solve(problem.prompt) == problem.answer == answer_of(problem.solution)
        for a, operation, b, result in re.findall(
            r"(\d+) (plus|minus) (\d+) is (\d+)", problem.solution
        ):
            assert int(a) + (int(b) if operation == "plus" else -int(b)) == int(result)


def test_no_problem_is_in_two_splits():
    texts = {split: {p.prompt for p in take(split, 300, seed)} for seed, split in enumerate(SPLITS)}
    for split, some in texts.items():
        assert len(some) == 300 and all(split_of(text) == split for text in some)
    assert sum(SPLITS.values()) == pytest.approx(1)


def test_problems_repeat_for_the_same_seed_only():
    assert take("dev", 20) == take("dev", 20)
    assert not set(take("dev", 50, 0)) & set(take("dev", 50, 1))
    with pytest.raises(ValueError, match="split must be one of pretrain, distill, dev, held_out"):
        next(problems("test", 0))


def test_the_vocabulary_covers_the_problems():
    tokenizer = make_tokenizer()
    assert 700 <= len(vocabulary()) == len(set(vocabulary())) == len(tokenizer)
    for problem in take("pretrain", 300):
        for text in (problem.prompt, problem.solution):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    "text, answer",
    [
        ("so the answer is 37 .", 37),
        ("the answer is 3 . the answer is 4", 4),
        ("the answer is", None),
        ("answer is Ann", None),
        ("", None),
    ],
)
def test_answer_of(text, answer):
    assert answer_of(text) == answer


def test_only_solutions_are_learned():
    tokenizer = make_tokenizer()
    some = take("dev", 3)
    batch = encode(some, tokenizer)
    for row, problem in enumerate(some):
        learned = tokenizer.decode(batch["ids"][row][batch["response"][row]])
        assert learned == problem.solution + " <eos>"


def test_pretraining_learns_the_form_of_a_solution():
    tokenizer = make_tokenizer()
    recipe = Recipe(layers=1, width=32, heads=2, steps=60, batch=16, learning_rate=1e-2)
    model = pretrain(recipe, tokenizer, log_every=1000)
    batch = encode(take("dev", 32), tokenizer)
    with torch.no_grad():
        logits = model(batch["ids"]).logits[:, :-1]
    target = batch["response"][:, 1:]
    loss = torch.nn.functional.cross_entropy(logits[target], batch["ids"][:, 1:][target])
    assert loss < 0.5 * torch.log(torch.tensor(float(len(tokenizer))))


def test_the_build_command_makes_a_demo_that_runs(tmp_path, monkeypatch):
    """All of it, too short to learn anything."""
    recipe = Recipe(layers=1, width=16, heads=2, steps=3, batch=4)
    monkeypatch.setattr(build, "STUDENT", recipe)
    monkeypatch.setattr(build, "TEACHER", dataclasses.replace(recipe, layers=2, seed=1))
    monkeypatch.setattr(build, "PROMPTS", 40)
    monkeypatch.setattr(
        build, "DISTILL", dataclasses.replace(build.DISTILL, epochs=1, batch_size=20)
    )
    work, assets = tmp_path / "work", tmp_path / "assets"
    build.main([str(work)])
    before = {p: p.stat().st_mtime_ns for p in work.rglob("*.safetensors") if "sel" not in str(p)}
    build.main([str(work)])  # nothing is trained twice
    assert before == {p: p.stat().st_mtime_ns for p in before}
    build.install(work, assets)
    demo = Demo.load(assets)
    some = held_out_problems(3)
    for method in METHODS:
        outcome = run_method(method, demo, some)
        assert len(outcome.right) == len(outcome.responses) == 3 and outcome.forward_passes > 0


def test_the_shipped_demo_shows_its_effect():
    demo = Demo.load()
    assert sum(p.stat().st_size for p in ASSETS.rglob("*") if p.is_file()) < 4e6
    some = held_out_problems(120)
    right = {method: sum(run_method(method, demo, some).right) for method in METHODS}
    assert right["s2t"] > right["greedy"] + 20
    assert right["s2t-local"] > right["greedy"]


def test_it_asks_the_network_for_nothing(monkeypatch):
    """Not even where the hub may be asked; this environment has HF_HUB_OFFLINE set."""

    def request(*_, **__):
        raise AssertionError("asked the hub")

    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", request)
    monkeypatch.setattr("huggingface_hub.file_download.hf_hub_download", request)
    loaded = Demo.load(ASSETS)
    for method in METHODS:
        run_method(method, loaded, held_out_problems(2))


def test_greedy_is_the_models_own_generate():
    demo = Demo.load()
    some = held_out_problems(8)
    inputs = demo.tokenizer([p.prompt for p in some], return_tensors="pt", padding=True)
    output = demo.student.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
    )
    texts = demo.tokenizer.batch_decode(
        output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert run_method("greedy", demo, some).responses == texts


def test_the_command():
    result = CliRunner().invoke(app, ["demo", "--problems", "12", "--json"])
    assert result.exit_code == 0, result.output
    outcomes = json.loads(result.stdout)
    assert [o["method"] for o in outcomes] == list(METHODS)
    assert all(o["problems"] == 12 for o in outcomes)
    result = CliRunner().invoke(app, ["demo", "--problems", "12", "--traces", "1"])
    assert result.exit_code == 0 and "s2t-local" in result.output


def test_without_models_it_says_how_to_make_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="assets must hold the demo's models"):
        Demo.load(tmp_path)
    result = CliRunner().invoke(app, ["demo", "--assets", str(tmp_path)])
    assert result.exit_code == 2
