"""Which states are labelled, of rollouts by which policy, and on which side of the split."""

import pytest
import torch
from collecting import PROMPTS, make_model, run_collect
from models import make_selector

from s2t_ext import S2TConfig, generate
from s2t_ext.distillation.data.collection import SPLITS
from s2t_ext.runs.prompts import Prompt, choose_held_out


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return run_collect(tmp_path_factory.mktemp("collected"), held_out=0.4)


def test_steps_by_a_threshold(tmp_path, collection):
    """Those at which an entropy trigger of this threshold fires on the same rollouts."""
    values = sorted(e for t in collection.trajectories("train") for e in t.entropy)
    middle = (values[len(values) // 2] + values[len(values) // 2 + 1]) / 2
    other = run_collect(tmp_path, held_out=0.4, steps="entropy", entropy_threshold=middle)
    for trajectory in other.trajectories("train"):
        above = [i for i, value in enumerate(trajectory.entropy) if value > middle]
        assert [group.step for group in trajectory.groups] == above
    settings = other.manifest["settings"]
    assert settings["entropy_threshold"] == middle
    assert "entropy_threshold" not in collection.manifest["settings"]


def test_rollouts_with_the_teachers_choices(tmp_path, collection):
    """Every step chosen by the teacher among the candidates: the states that S2T meets."""
    decoding = S2TConfig(k=4, support=16, trigger="always", select="teacher", warmup_steps=0)
    guided = run_collect(tmp_path, temperature=0.0, decoding=decoding)
    student, teacher = make_model(1), make_model(2)
    for trajectory in guided.trajectories("train")[:3]:
        for step, token in enumerate(trajectory.response):
            ids = torch.tensor([[*trajectory.prompt, *trajectory.response[:step]]])
            with torch.no_grad():
                offered = student(ids).logits[0, -1].topk(4).indices
                liked = offered[teacher(ids).logits[0, -1][offered].argmax()]
            assert token == int(liked)
    assert guided.manifest["settings"]["decoding"]["select"] == "teacher"
    with pytest.raises(ValueError, match="of the same rollouts, got .* in decoding"):
        run_collect(tmp_path / "plain", temperature=0.0, rollouts_from=guided.folder)


def test_rollouts_with_a_selectors_choices(tmp_path):
    model = make_model(1)
    selector = make_selector(model)
    decoding = S2TConfig(k=4, support=16, trigger="always", warmup_steps=0)
    chosen = run_collect(tmp_path / "a", temperature=0.0, decoding=decoding, selector=selector)
    plain = run_collect(tmp_path / "b", temperature=0.0)
    changed = 0
    for mine, other in zip(chosen.trajectories("train"), plain.trajectories("train"), strict=True):
        ids = torch.tensor([mine.prompt])
        output = generate(model, ids, selector=selector, s2t=decoding, max_new_tokens=12)
        assert output[0, ids.shape[1] :].tolist() == list(mine.response)
        changed += mine.response != other.response
    assert changed > 0
    selector.prior_weight += 1.0
    with pytest.raises(ValueError, match="output must be .* differs in decoding"):
        run_collect(tmp_path / "a", temperature=0.0, decoding=decoding, selector=selector)


def test_a_selector_that_cannot_roll_out_is_refused(tmp_path):
    local, adapted = S2TConfig(trigger="always"), make_selector(make_model(1))
    with pytest.raises(ValueError, match="selector must be given for select='local', got None"):
        run_collect(tmp_path, decoding=local)
    with pytest.raises(ValueError, match="selector must be left out unless decoding has"):
        run_collect(tmp_path, selector=adapted)
    adapted.adapted_model = make_model(1)
    with pytest.raises(ValueError, match="selector must have no adapter, got one"):
        run_collect(tmp_path, decoding=local, selector=adapted)


@pytest.mark.parametrize("count", [2, 3, 6, 10, 100])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.9])
def test_the_share_is_met_with_few_prompts_too(count, share):
    flags = choose_held_out([Prompt(f"prompt {i}") for i in range(count)], share)
    least, most = (1, count - 1) if share else (0, 0)
    assert sum(flags) == pytest.approx(min(max(share * count, least), most), abs=0.5)


def test_splits_follow_the_groups():
    """Whatever the groups' sizes: none is torn, and the share is as near as one of them allows."""
    sizes = [1, 2, 3, 5, 8, 13]
    prompts = [Prompt(f"{size} {i}", group=f"of {size}") for size in sizes for i in range(size)]
    for share in (0.1, 0.25, 0.5):
        flags = choose_held_out(prompts, share)
        found = {(p.group, flag) for p, flag in zip(prompts, flags, strict=True)}
        assert len(found) == len(sizes)
        assert abs(sum(flags) - share * len(prompts)) <= 2
    assert choose_held_out([Prompt(p, group="one") for p in PROMPTS], 0.4) == [False] * len(PROMPTS)


def test_a_prompt_keeps_its_side_where_prompts_are_added():
    few, more = ([Prompt(f"prompt {i}") for i in range(count)] for count in (400, 500))
    same = sum(
        a == b for a, b in zip(choose_held_out(few, 0.2), choose_held_out(more, 0.2), strict=False)
    )
    assert same >= 0.95 * len(few)


def test_groups_are_split_or_kept_together(tmp_path):
    """By prompt, the prompts of one group fall on both sides, as they do without a group."""
    grouped = [Prompt(p, group="template") for p in PROMPTS]
    together = run_collect(tmp_path / "group", prompts=grouped, held_out=0.4)
    apart = run_collect(tmp_path / "prompt", prompts=grouped, held_out=0.4, held_out_by="prompt")
    alone = run_collect(tmp_path / "alone", held_out=0.4)
    sizes = [[len(c.trajectories(split)) for split in SPLITS] for c in (together, apart, alone)]
    assert sorted(sizes[0]) == [0, len(PROMPTS)] and sizes[1] == sizes[2] and min(sizes[1]) > 0
