"""Local sufficiency: numbers equal a plain loop's, runs resume, reports say what they say."""

import json
import math

import pytest
import torch
from completions_server import CompletionsServer
from models import tiny_model
from tiny_teachers import teacher_model
from typer.testing import CliRunner
from words import save_pair, word_tokenizer

import s2t_ext
from s2t_ext import Teacher
from s2t_ext.analysis.sufficiency_report import (
    ABSENT,
    Steps,
    highest,
    sufficiency_report,
    sufficiency_statistics,
)

PROMPTS = ["w5 w6 w7", "w20 w21", "w40", "w8 w9 w10 w11 w12"]


def measure(folder, teacher=None, prompts=PROMPTS, **options):
    options = {"max_new_tokens": 12, "batch_size": 3, "bootstrap_samples": 50, **options}
    return s2t_ext.measure_sufficiency(
        tiny_model("llama"),
        word_tokenizer(),
        teacher or Teacher.from_model(teacher_model()),
        prompts,
        folder,
        progress=False,
        **options,
    )


def records(folder) -> list[dict]:
    lines = (folder / "results" / "problems.jsonl").read_text().splitlines()
    return sorted((json.loads(line) for line in lines), key=lambda r: r["index"])


@torch.no_grad()
def by_hand(prompt: str, response: list[int]):
    """KL, entropy and rank of every step, each from its own prefix, in double precision."""
    student, large = tiny_model("llama"), teacher_model()
    ids = word_tokenizer()(prompt)["input_ids"]
    rows = []
    for token in response:
        ours = student(torch.tensor([ids])).logits[0, -1].double()
        theirs = large(torch.tensor([ids])).logits[0, -1].double()
        top = ours.topk(64)
        log_p, log_q = top.values.log_softmax(0), theirs[top.indices].log_softmax(0)
        kl, entropy = (log_p.exp() * (log_p - log_q)).sum(), -(log_p.exp() * log_p).sum()
        found = (top.indices == theirs.argmax()).nonzero()
        rows.append((float(kl), float(entropy), int(found) if len(found) else ABSENT))
        ids = [*ids, token]
    return rows


def test_every_step_equals_a_plain_loop(tmp_path):
    measure(tmp_path)
    seen = set()
    for prompt, record in zip(PROMPTS, records(tmp_path), strict=True):
        ids = torch.tensor([word_tokenizer()(prompt)["input_ids"]])
        greedy = tiny_model("llama").generate(ids, max_new_tokens=12, do_sample=False)
        assert record["response"] == greedy[0, ids.shape[1] :].tolist()
        expected = by_hand(prompt, record["response"])
        assert record["kl"] == pytest.approx([row[0] for row in expected], abs=2e-4)
        assert record["entropy"] == pytest.approx([row[1] for row in expected], abs=2e-4)
        assert record["rank"] == [row[2] for row in expected]
        seen.update(record["rank"])
    assert ABSENT in seen and len(seen) > 5


def test_statistics_of_known_steps():
    """100 steps: KL and rank rise together, entropy falls."""
    kl = torch.arange(100, dtype=torch.float64)
    rank = torch.tensor([0] * 90 + [1, 2, 3, 5, 9, 17, 40, ABSENT, 0, 8])
    values = sufficiency_statistics(kl, -kl, rank)
    assert values["agreement"] == 0.91
    top = [f"hit/kl/0.1/hit@{k}" for k in (1, 2, 4, 8, 16, 32)]
    assert [values[name] for name in top] == [0.1, 0.2, 0.4, 0.5, 0.7, 0.8]
    assert values["hit/kl/0.01/hit@8"] == 0.0 and values["hit/kl/0.01/hit@16"] == 1.0
    assert values["hit/entropy/0.1/hit@1"] == 1.0
    assert values["errors/all/disagreement"] == pytest.approx(0.09)
    assert values["errors/all/missing@8"] == pytest.approx(5 / 9)
    assert values["errors/all/wrongly_ranked@8"] == pytest.approx(4 / 9)
    assert values["errors/0.01/disagreement"] == 1.0


def test_highest_takes_at_least_one_and_the_earlier_of_equals():
    assert highest(torch.tensor([3.0, 1.0, 3.0, 3.0]), 0.5).tolist() == [0, 2]
    assert highest(torch.tensor([3.0, 4.0]), 0.01).tolist() == [1]


def test_intervals_are_over_problems():
    """Problems that are alike give a narrow interval, problems that differ a wide one, whatever the
    number of steps; no disagreement at all gives an undefined decomposition, not an error.
    """

    def record(ranks):
        steps = len(ranks)
        return {"kl": [1.0] * steps, "entropy": [1.0] * steps, "rank": ranks, "seconds": {"a": 1.0}}

    alike = sufficiency_report([record([0, 1] * 50) for _ in range(10)])
    assert alike["agreement"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    mixed = sufficiency_report([record([i % 2] * 100) for i in range(10)])
    assert mixed["agreement"]["value"] == 0.5
    assert mixed["agreement"]["low"] < 0.35 and mixed["agreement"]["high"] > 0.65
    assert mixed["counts"] == {"problems": 10, "steps": 1000} and mixed["seconds"] == {"a": 10.0}
    perfect = sufficiency_report([record([0])])
    assert perfect["errors"]["all"]["missing@8"] == {"value": None, "low": None, "high": None}
    assert sufficiency_report([record([i % 2] * 100) for i in range(10)]) == mixed  # seeded
    with pytest.raises(ValueError, match="at least one token"):
        sufficiency_report([record([])])


def test_the_report_is_that_of_the_records(tmp_path):
    report = measure(tmp_path)
    steps = Steps.from_records(records(tmp_path))
    values = sufficiency_statistics(steps.kl, steps.entropy, steps.rank)
    entry = report["hit"]["kl"]["0.05"]
    assert entry["hit@8"]["value"] == values["hit/kl/0.05/hit@8"]
    assert entry["hit@8"]["low"] <= entry["hit@8"]["value"] <= entry["hit@8"]["high"]
    assert entry["steps"] == math.ceil(0.05 * len(steps.rank))
    assert entry["threshold"] == float(steps.kl.sort().values[-entry["steps"]])
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert set(report["seconds"]) == {"rollout", "student", "teacher"}


def test_an_interrupted_run_resumes(tmp_path):
    """What a killed run had finished is not computed again; the report is the undisturbed one's."""
    expected = measure(tmp_path / "whole")

    class Dying(Teacher):
        left = 2

        def start(self, student):
            raise AssertionError

        def score_trajectory(self, input_ids, first):
            raise AssertionError

        def label_trajectory(self, *arguments, **options):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            return Teacher.from_model(teacher_model()).label_trajectory(*arguments, **options)

        model = teacher_model()

    folder = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        measure(folder, Dying(), batch_size=1)
    path = folder / "results" / "problems.jsonl"
    assert len(path.read_text().splitlines()) == 2
    with path.open("a") as file:
        file.write('{"index": 3, "kl": [0.')  # a line cut off by the kill
    resumed = measure(folder, batch_size=1)
    for report in (expected, resumed):
        report.pop("seconds")
    assert resumed == expected
    assert len((folder / "runs.jsonl").read_text().splitlines()) == 2
    with pytest.raises(ValueError, match="differs in max_new_tokens"):
        measure(folder, batch_size=1, max_new_tokens=13)


def test_a_server_as_the_teacher(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    expected = measure(tmp_path / "local")
    with CompletionsServer(teacher_model()).running() as url:
        teacher = Teacher.from_server(url, "tiny", top_logprobs=97)
        actual = measure(tmp_path / "server", teacher)
    for name in ("hit", "errors", "agreement"):
        for report in (expected, actual):
            for entry in report["hit"]["kl"].values():
                entry.pop("threshold", None)
        assert actual[name] == expected[name]


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="prompts must hold at least one text"):
        measure(tmp_path, prompts=[])
    words = ["<pad>", "<eos>", "<bos>", *(f"v{i}" for i in range(3, 97))]
    other = Teacher.from_model(teacher_model(), word_tokenizer(words))
    with pytest.raises(ValueError, match="teacher must have the student's tokenizer"):
        measure(tmp_path, other)


def test_the_command(tmp_path):
    from s2t_ext.cli import app

    student, teacher = save_pair(tmp_path)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    arguments = ["--model", str(student), "--teacher", str(teacher), "--prompts", str(prompts)]
    arguments += ["--output", str(tmp_path / "run"), "--max-new-tokens", "8", "--no-chat"]
    result = CliRunner().invoke(app, ["sufficiency", *arguments, "--dtype", "float32", "--no-plot"])
    assert result.exit_code == 0, result.output
    assert "top 5% kl" in result.output and "hit@8" in result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["counts"]["problems"] == len(PROMPTS)
    refused = CliRunner().invoke(app, ["sufficiency", *arguments, "--teacher-name", "x"])
    assert refused.exit_code == 2 and "--teacher-model-name" in refused.output


def test_the_plot(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib (the plot extra) is not installed")
    from s2t_ext.analysis.sufficiency_report import plot_sufficiency

    measure(tmp_path)
    assert plot_sufficiency(tmp_path).read_bytes().startswith(b"\x89PNG")
