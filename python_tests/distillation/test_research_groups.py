"""Groups of the released research code: put together by trajectory, and trained on like our own."""

import random

import pytest
import torch
from collecting import make_model, run_collect
from research_lines import lines_of, write

from s2t_ext.distillation.data.collection import Collection
from s2t_ext.distillation.data.research_groups import import_groups, read_research_groups
from s2t_ext.distillation.groups import packed_length
from s2t_ext.distillation.options import DistillConfig
from s2t_ext.distillation.train import distill


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory):
    collection = run_collect(tmp_path_factory.mktemp("collected"), share=0.5, max_new_tokens=20)
    both = collection.trajectories("train") + collection.trajectories("held_out")
    return [t for t in both if len(t.groups) > 2]


def imported(path, output, **options) -> list:
    collection = import_groups(make_model(1), [path], output, **options)
    return collection.trajectories("train") + collection.trajectories("held_out")


def test_they_become_the_trajectories_they_came_from(trajectories, tmp_path):
    """In whatever order the lines come; the student's numbers are computed again."""
    lines = lines_of(trajectories)
    random.Random(0).shuffle(lines)
    for line in lines:  # the candidates too: ours stand in the student's order
        line["cand_ids"].reverse()
        line["teacher_prob_abs"].reverse()
    found = {t.key: t for t in imported(write(tmp_path / "groups.jsonl", lines), tmp_path / "out")}
    assert len(found) == len(trajectories)
    for number, expected in enumerate(trajectories):
        actual = found[str(number)]
        last = expected.groups[-1].step
        assert actual.prompt == expected.prompt and actual.response == expected.response[:last]
        assert [g.step for g in actual.groups] == [g.step for g in expected.groups]
        for a, b in zip(actual.groups, expected.groups, strict=True):
            assert a.candidates == b.candidates and a.teacher_probs == b.teacher_probs
            assert a.student_logprobs == pytest.approx(b.student_logprobs, abs=1e-4)


def test_a_shared_context_goes_through_the_model_once(trajectories, tmp_path):
    path = write(tmp_path / "groups.jsonl", lines_of(trajectories))
    packed = sum(packed_length(t) for t in imported(path, tmp_path / "out"))
    apart = sum(
        len(line["cand_ids"]) * (len(line["context_ids"]) + 1) for line in lines_of(trajectories)
    )
    assert packed < apart / 5


def test_cut_contexts_are_put_together_where_they_overlap(trajectories, tmp_path):
    """The first context begins the trajectory; later ones continue it as far as they reach."""
    lines = lines_of(trajectories[:1], longest=12)
    found = read_research_groups([write(tmp_path / "groups.jsonl", lines)])
    tokens = [*trajectories[0].prompt, *trajectories[0].response]
    assert sum(len(t.lines) for t in found) == len(lines)
    for trajectory in found:
        for step, line in trajectory.lines.items():
            end = trajectory.prompt + trajectory.step_of(step)
            seen = [trajectory.tokens[i] for i in range(end)]
            assert seen[-12:] == line["context_ids"]
            assert tokens[: len(trajectories[0].prompt) + step][-end:] == seen


def test_rollouts_that_differ_stay_apart(trajectories, tmp_path):
    """Two runs over the same problem number."""
    lines = lines_of(trajectories[:1]) + [
        {**line, "problem_id": 0} for line in lines_of(trajectories[1:2])
    ]
    found = read_research_groups([write(tmp_path / "groups.jsonl", lines)])
    assert sorted(t.key for t in found)[:2] == ["0", "0-1"]
    assert sum(len(t.lines) for t in found) == len(lines)


def test_a_selector_is_trained_on_them(trajectories, tmp_path):
    """Without divergences there is no trigger to learn."""
    path = write(tmp_path / "groups.jsonl", lines_of(trajectories))
    import_groups(make_model(1), [path], tmp_path / "out", held_out=0.3)
    config = DistillConfig(epochs=1, batch_size=2, bins=5, k=3, method="rows")
    result = distill(make_model(1), Collection(tmp_path / "out"), tmp_path / "run", config)
    assert result.quality is not None and result.quality.groups > 0
    assert result.selector.trigger_head is None
    assert "head" not in result.selector.calibrations
    assert torch.isfinite(result.selector.rows).all()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "line 2 must be JSON, got "),
        ("[1]", "line 2 must have problem_id, step, "),
        ('{"problem_id": 1, "step": 2}', ", got no context_ids"),
        (
            '{"problem_id": 1, "step": 0, "context_ids": [3], "cand_ids": [1, 2], '
            '"teacher_prob_abs": [0.5]}',
            "line 2 must have a probability per candidate and a context, got",
        ),
    ],
)
def test_errors(tmp_path, line, message):
    path = tmp_path / "groups.jsonl"
    path.write_text("\n" + line + "\n")
    with pytest.raises(ValueError, match="read_research_groups: groups.jsonl ") as error:
        read_research_groups([path])
    assert message in str(error.value)


def test_no_groups(tmp_path):
    (tmp_path / "groups.jsonl").write_text("")
    with pytest.raises(ValueError) as error:
        import_groups(make_model(1), [tmp_path / "groups.jsonl"], tmp_path / "out")
    assert str(error.value) == ("import_groups: paths must hold at least one group, got none")
