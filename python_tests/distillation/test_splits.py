"""Which prompts of a collection are set aside."""

import pytest
from collecting import PROMPTS, run_collect

from s2t_ext.distillation.data.collection import SPLITS
from s2t_ext.runs.prompts import Prompt, choose_held_out


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
