"""From prompts to a verdict in one command, on the embedded models."""

import itertools
import json
import sys

import pytest
from collecting import PROMPTS, make_model
from command_line import call, error_of
from typer.testing import CliRunner

from s2t_ext.cli import app
from s2t_ext.demo import ASSETS
from s2t_ext.demo.pretrain import make_tokenizer
from s2t_ext.demo.problems import problems
from s2t_ext.distillation.data.collection import Collection

MODELS = ("--model", ASSETS / "student", "--teacher", ASSETS / "teacher")
RECIPE = """
learn_from: labels
dtype: float32
use_chat_template: false
max-new-tokens: 56
collect:
  batch_size: 16
distill: {epochs: 2, harm-limit: 0.5}
evaluate:
  policy: [greedy, s2t-local, s2t]
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A recipe, and a file of questions and answers."""
    folder = tmp_path_factory.mktemp("task")
    rows = [
        {"question": p.prompt, "answer": str(p.answer), "instruction": "", "group": str(i % 3)}
        for i, p in enumerate(itertools.islice(problems("distill", 0), 48))
    ]
    (folder / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def adapted(task):
    """(folder of the run, what was printed)."""
    output = task / "output"
    return output, call(*command(task, output))


def command(task, output, *more):
    files = ("--prompts", task / "task.jsonl", "--config", task / "recipe.yaml")
    return ("adapt", *MODELS, *files, "--output", output, *more)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_part_of_the_questions_is_kept_for_the_test(adapted):
    output, _ = adapted
    learnt = {row["prompt"] for row in lines(output / "prompts.jsonl")}
    tested = {row["question"] for row in lines(output / "test.jsonl")}
    assert len(learnt) + len(tested) == 48 and not learnt & tested and 5 < len(tested) < 20
    trajectories = Collection(output / "collection").summary()
    assert trajectories["train"]["trajectories"] + trajectories["held_out"]["trajectories"] == len(
        learnt
    )


def test_the_recipe_reaches_the_commands(adapted):
    output, _ = adapted
    settings = Collection(output / "collection").manifest["settings"]
    assert (settings["batch_size"], settings["steps"], settings["share"]) == (16, "entropy", 0.2)
    assert settings["held_out_by"] == "prompt" and settings["max_new_tokens"] == 56
    policies = sorted(path.stem for path in (output / "results" / "policies").glob("*.json"))
    assert policies == ["greedy", "s2t", "s2t-local"]
    asked = json.loads((output / "adapt.json").read_text())
    assert list(asked) == ["collect", "distill", "evaluate"]
    assert "--epochs=2" in asked["distill"]["arguments"]


def test_s2t_and_s2t_local_choose_at_the_same_threshold(adapted):
    output, _ = adapted
    stored = json.loads((output / "run" / "selector" / "s2t_config.json").read_text())
    calibrated = stored["calibration"]["entropy"]
    assert calibrated["rate"] == pytest.approx(0.2, abs=0.02)
    s2t = json.loads((output / "results" / "policies" / "s2t.json").read_text())["config"]
    assert s2t["trigger"] == "entropy"
    assert s2t["threshold"] == pytest.approx(calibrated["threshold"])


def test_it_ends_with_a_table_and_one_sentence(adapted):
    output, (stdout, stderr) = adapted
    table, sentence = stdout.rstrip().rsplit("\n\n", 1)
    assert "s2t-local" in table and "accuracy (95 %)" in table
    assert sentence.startswith("Use ") and sentence.endswith(".") and "\n" not in sentence
    assert (output / "recommendation.txt").read_text() == sentence + "\n"
    for line in ("[1/3] collect\n", "[2/3] distill\n", "[3/3] evaluate\n"):
        assert line in stderr
    assert "next:" not in stderr


def test_what_is_done_is_not_done_again(adapted, task, monkeypatch):
    output, (first, _) = adapted
    monkeypatch.setattr("s2t_ext.cli.common.load_model", None)
    stdout, stderr = call(*command(task, output, "--json"))
    for stage in ("collect", "distill", "evaluate"):
        assert f"{stage}: done before" in stderr
    found = json.loads(stdout)
    assert first.rstrip().endswith(found["recommendation"])
    assert set(found["summary"]["policies"]) == {"greedy", "s2t-local", "s2t"}


def test_other_options_run_what_they_change(adapted, task):
    """Of other policies only the evaluation is run; what another collection needs is refused."""
    output, _ = adapted
    text = (task / "recipe.yaml").read_text()
    other = task / "other.yaml"
    other.write_text(text.replace("s2t-local, s2t]", "s2t-local]"))
    _, stderr = call(*command(task, output), "--config", other)
    assert "distill: done before" in stderr and "[3/3] evaluate\n" in stderr
    other.write_text(text.replace("batch_size: 16", "k: 4"))
    message = refusal(*command(task, output), "--config", other)
    assert "differs in batch_size" in message and "k (8, now 4)" in message


def refusal(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 2
    return result.stderr


def test_without_answers_nothing_is_claimed(task, tmp_path):
    prompts = tmp_path / "prompts.txt"
    questions = [row["question"] for row in lines(task / "task.jsonl")]
    prompts.write_text("\n".join(questions[:12]) + "\n")
    stdout, _ = call(
        "adapt", *MODELS, "--prompts", prompts, "--config", task / "recipe.yaml", "--output",
        tmp_path / "out",
    )  # fmt: skip
    assert stdout.rstrip().splitlines()[-1].startswith("Use greedy until answers have been graded")
    assert not (tmp_path / "out" / "results").exists()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_methods_that_change_the_student(tmp_path, method):
    """The trigger is calibrated on the changed student's own rollouts, and its own greedy answers
    stand beside: those of the adapter, or of the model that was trained.
    """
    for name, seed in (("student", 1), ("teacher", 2)):
        make_model(seed).save_pretrained(tmp_path / name)
        make_tokenizer().save_pretrained(tmp_path / name)
    rows = [{"question": p, "answer": "1", "instruction": ""} for p in PROMPTS]
    for name, some in (("task", rows), ("test", rows[:2])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "{learn_from: labels, dtype: float32, use_chat_template: false, "
        f"distill: {{method: {method}}}}}"
    )
    output = tmp_path / "out"
    call(
        "adapt", "--model", tmp_path / "student", "--teacher", tmp_path / "teacher", "--prompts",
        tmp_path / "task.jsonl", "--test", tmp_path / "test.jsonl", "--config", recipe, "--output",
        output, "--max-new-tokens", 8, "--seed", 3,
    )  # fmt: skip
    asked = json.loads((output / "adapt.json").read_text())
    assert list(asked) == ["collect", "distill", "calibrate", "evaluate"]
    assert all("--seed=3" in asked[stage]["arguments"] for stage in ("collect", "distill"))
    assert not {r["prompt"] for r in lines(output / "prompts.jsonl")} & set(PROMPTS[:2])
    stored = json.loads((output / "run" / "selector" / "s2t_config.json").read_text())
    assert stored["calibration"]["entropy"]["prompts_sha256"]  # of `calibrate`, which had prompts
    policies = {path.stem for path in (output / "results" / "policies").glob("*.json")}
    own = {"adapted"} if method == "lora" else set()
    assert policies == {"greedy", "s2t-local", "s2t", "teacher", *own}


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("- a", "must hold names and values, got ['a']"),
        ("a: [", "must be YAML, got while parsing"),
        ("distill: {epoch: 3}", "got epoch (no option)"),
        ("distill: {output: X}", "got output (set by adapt)"),
        ("distill: 3", "distill must hold names and values, got 3"),
        ("stage: 1", "got stage (no option)"),
        ("distill: {plot: 2}", "plot must be true or false, got 2"),
        ("distill: {epochs: {a: 1}}", "epochs must be a value or a list, got {'a': 1}"),
        ("task: mix", "one of --prompts and --task must be given, got both or none"),
    ],
)
def test_recipes_that_are_none(task, tmp_path, recipe, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe)
    assert message in error_of(*command(task, tmp_path / "out"), "--config", path)
    assert not (tmp_path / "out").exists()


def test_wrong_values_are_refused_before_anything_runs(task, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("evaluate: {batch_size: many}")
    message = refusal(*command(task, tmp_path / "out"), "--config", path)
    assert "adapt evaluate" in message and "--batch-size" in message and "integer" in message
    assert not (tmp_path / "out").exists()
    assert "--model must be given, here or in the recipe" in error_of("adapt", "--output", "X")


def test_without_the_grader_nothing_is_collected(task, tmp_path, monkeypatch):
    """Known before anything is done, and not after the last but one stage."""
    monkeypatch.setitem(sys.modules, "math_verify", None)  # as if it were not installed
    message = error_of(*command(task, tmp_path / "new"))
    assert "pip install 's2t_ext[eval]'" in message
    assert not (tmp_path / "new" / "collection").exists()


def test_from_answers_that_the_key_confirms(task, tmp_path):
    """The default where answers are known: the teacher's right ones train an adapter, which chooses
    at the calibrated entropy and margin and also writes alone.
    """
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "{dtype: float32, use_chat_template: false, max_new_tokens: 56, collect: {held_out: 0.25},"
        " calibrate: {harm_limit: 0.3}}"
    )
    output = tmp_path / "out"
    arguments = ("adapt", *MODELS, "--prompts", task / "task.jsonl", "--output", output)
    stdout, stderr = call(*arguments, "--config", recipe)
    assert "learning from answers" in stderr
    for line in ("[1/4] collect\n", "[2/4] distill\n", "[3/4] calibrate\n", "[4/4] evaluate\n"):
        assert line in stderr
    prompts, questions = lines(output / "prompts.jsonl"), lines(output / "questions.jsonl")
    assert [row["question"] for row in questions] == [row["prompt"] for row in prompts]
    assert not {r["question"] for r in questions} & {
        r["question"] for r in lines(output / "test.jsonl")
    }
    kept = Collection(output / "answers")
    assert kept.manifest["settings"]["keep"] == "right"
    assert (output / "run" / "adapter" / "adapter_model.safetensors").is_file()
    threshold = json.loads((output / "threshold.json").read_text())
    assert threshold["trigger"] == "entropy" and threshold["rate"] == pytest.approx(0.3, abs=0.02)
    chosen = json.loads((output / "results" / "policies" / "s2t@adapter.json").read_text())
    assert chosen["config"]["threshold"] == pytest.approx(threshold["threshold"])
    assert threshold["after"]["harmful"] <= 0.3 * threshold["after"]["overrides"]
    assert chosen["config"]["override_margin"] == pytest.approx(threshold["override_margin"])
    policies = {path.stem for path in (output / "results" / "policies").glob("*.json")}
    assert policies == {"greedy", "s2t@adapter", "teacher@adapter"}
    sentence = stdout.rstrip().splitlines()[-1]
    assert sentence.startswith("Use ") and 'run/adapter", model) choosing at entropy' in sentence
    assert f"with margin {threshold['override_margin']:.3g};" in sentence
    _, stderr = call(*arguments, "--config", recipe)
    assert stderr.count("done before") == 4


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("{learn_from: answers, collect: {steps: kl}}", "got steps (set by adapt)"),
        ("{learn_from: answers, distill: {method: rows}}", "distill (learn_from: answers) must be"),
        ("learn_from: teachers", "--learn-from must be one of labels, answers, got teachers"),
        (
            "{learn_from: answers, teacher: 'http://localhost:1/v1'}",
            "--learn-from answers must have a --teacher that is a model, got http://localhost:1/v1",
        ),
    ],
)
def test_what_answers_cannot_use(task, tmp_path, recipe, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe)
    given = list(command(task, tmp_path / "out"))
    if "teacher:" in recipe:
        del given[3:5]
    assert message in error_of(*given, "--config", path)
    assert not (tmp_path / "out").exists()


def test_answers_must_be_known_to_learn_from_them(task, tmp_path):
    (tmp_path / "prompts.txt").write_text("What is 2 + 3?\n")
    given = ("adapt", *MODELS, "--prompts", tmp_path / "prompts.txt", "--output", tmp_path / "out")
    message = error_of(*given, "--learn-from", "answers")
    assert "--learn-from answers must have a --task, or --prompts of questions with" in message
