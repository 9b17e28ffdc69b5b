"""The frontier: thresholds at the asked rates, each point as if alone, in one resumable run."""

import json

import pytest
from evaluating import NEW, PROMPTS, problems
from models import make_selector, tiny_model
from tiny_teachers import teacher_model
from words import save_pair, word_tokenizer

import s2t_ext
from s2t_ext import Teacher
from s2t_ext.evaluation.policy_runner import PolicyRunner
from s2t_ext.selectors.parts import TriggerHead

pytestmark = pytest.mark.usefixtures("whole_text_is_the_answer")
CALIBRATION = ["w30 w31", "w3 w4 w5", "w60", "w21 w9", "w17 w18 w19", "w70 w71"]


def run(folder, **options):
    options = {"calibration_prompts": CALIBRATION, "use_chat_template": False, **options}
    return s2t_ext.frontier(
        tiny_model("llama"), word_tokenizer(), problems(), folder, max_new_tokens=NEW,
        batch_size=2, progress=False, **options,
    )  # fmt: skip


@pytest.fixture
def teacher():
    return Teacher.from_model(teacher_model(), word_tokenizer())


@pytest.fixture
def selector():
    model = tiny_model("llama")
    weight = make_selector(model, seed=9).rows[0]
    return make_selector(model, trigger_head=TriggerHead(weight, 0.0))


def test_points_fire_at_their_rates(tmp_path, teacher, selector):
    triggers, rates = ("entropy", "margin", "kl", "head", "random"), (0.2, 0.6)
    summary = run(tmp_path, triggers=triggers, rates=rates, teacher=teacher, selector=selector)
    points = summary["points"]
    assert len(points) == 2 * 5 * 2 and set(summary["policies"]) == {"greedy", *points}
    for chooser in ("s2t", "s2t-local"):
        for trigger in triggers:
            low, high = (
                summary["policies"][f"{chooser}@{trigger}-{rate:g}"]["trigger_rate"]
                for rate in rates
            )
            assert low < high
        for trigger in ("entropy", "margin", "kl"):  # a frozen student: one threshold for both
            names = [f"{one}@{trigger}-0.2" for one in ("s2t", "s2t-local")]
            assert points[names[0]]["threshold"] == points[names[1]]["threshold"]
    passes = {n: e["teacher_steps"] for n, e in summary["policies"].items()}
    for rate in ("0.2", "0.6"):  # at triggered steps; at every step
        assert 0 < passes[f"s2t@entropy-{rate}"] < passes[f"s2t@kl-{rate}"]
    assert passes["s2t-local@entropy-0.2"] == 0 < passes["s2t-local@kl-0.2"]


def test_thresholds_are_quantiles_of_the_greedy_rollouts(tmp_path, teacher):
    summary = run(tmp_path, rates=(0.25,), teacher=teacher)
    found = s2t_ext.calibrate(
        tiny_model("llama"), word_tokenizer(), CALIBRATION, rate=0.25, max_new_tokens=NEW,
        use_chat_template=False, progress=False,
    )  # fmt: skip
    assert summary["points"]["s2t@entropy-0.25"]["threshold"] == found.threshold


def test_a_run_resumes_and_extends(tmp_path, teacher, monkeypatch):
    whole = run(tmp_path / "whole", rates=(0.2, 0.6), teacher=teacher)
    run(tmp_path / "grown", rates=(0.6,), teacher=teacher)
    seen, decode = [], PolicyRunner.run

    def watched(self, policy, *arguments):
        seen.append(policy.name)
        return decode(self, policy, *arguments)

    monkeypatch.setattr(PolicyRunner, "run", watched)
    grown = run(tmp_path / "grown", rates=(0.2, 0.6), teacher=teacher)
    assert set(seen) == {"s2t@entropy-0.2"}  # greedy and the other point are there
    for name, entry in whole["policies"].items():
        for cost in ("correct", "tokens", "teacher_forward_passes", "trigger_rate"):
            assert grown["policies"][name][cost] == entry[cost], name
    with pytest.raises(ValueError, match="calibration_prompts must be those of the run in output"):
        run(tmp_path / "grown", teacher=teacher, calibration_prompts=PROMPTS)


def test_table_and_picture(tmp_path, teacher):
    run(tmp_path, rates=(0.2, 0.6), teacher=teacher, beside=("greedy", "teacher"))
    rows = json.loads((tmp_path / "frontier.json").read_text())
    assert [row["policy"] for row in rows] == [
        *["greedy", "teacher", "s2t@entropy-0.2", "s2t@entropy-0.6"]
    ]
    assert "wins" not in rows[0] and rows[2]["wins"] + rows[2]["losses"] <= 5
    table = (tmp_path / "frontier.md").read_text()
    assert "| s2t@entropy-0.2 | " in table and "accuracy (95 %)" in table
    pytest.importorskip("matplotlib", reason="matplotlib (the plot extra) is not installed")
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(rates=(0.2, 1.0)), r"rates must lie in \(0, 1\), .* got \[0.2, 1.0\]"),
        (dict(rates=(0.2, 0.2)), "rates must lie in"),
        (dict(triggers=("always",)), r"triggers must be of entropy, .* got \['always'\]"),
        (dict(choosers=("greedy",)), r"choosers must be of s2t, s2t-local, .* got \['greedy'\]"),
        (dict(choosers=("s2t-local",)), "selector must be given for s2t-local, got None"),
        (dict(triggers=("head",)), "selector must be given for s2t, got None"),
        (dict(calibration_prompts=[]), "calibration_prompts must hold at least one text"),
        (dict(teacher=None), r"choosers must be of s2t, s2t-local, .* got \[\]"),
    ],
)
def test_what_cannot_run_is_refused(tmp_path, teacher, options, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **{"teacher": teacher, **options})
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path):
    from command_line import call

    student, large = (str(folder) for folder in save_pair(tmp_path))
    path = tmp_path / "problems.jsonl"
    lines = [{"question": p, "answer": "w1", "instruction": "", "kind": "text"} for p in PROMPTS]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    stdout, _ = call(
        "frontier", "--model", student, "--teacher", large, "--task", path, "--output",
        tmp_path / "out", "--rate", 0.2, "--rate", 0.5, "--trigger", "entropy", "--trigger",
        "random", "--max-new-tokens", NEW, "--no-use-chat-template", "--dtype", "float32",
    )  # fmt: skip
    assert "s2t@random-0.5" in stdout and "accuracy (95 %)" in stdout
    assert all(len(line) <= 80 for line in stdout.splitlines())
