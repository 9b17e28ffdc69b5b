"""Which states are labelled: those that a trigger fires at, of rollouts by a policy."""

import pytest
import torch
from collecting import make_model, run_collect
from models import make_selector

from s2t_ext import S2TConfig, generate


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
