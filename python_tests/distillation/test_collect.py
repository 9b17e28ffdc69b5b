"""Collecting: what is recorded, and that a killed run resumes to the same result."""

import math
import os

import pytest
import torch
from collecting import PROMPTS, make_model, run_collect

from s2t_ext.distillation.data.collection import SPLITS, Collection
from s2t_ext.distillation.data.labeller import Labeller
from s2t_ext.evaluation.tasks import HELD_OUT, SALT
from s2t_ext.runs.files import write_atomically
from s2t_ext.runs.prompts import Prompt


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return run_collect(tmp_path_factory.mktemp("collected"), held_out=0.4)


def test_labels_are_the_definitions(collection):
    """Recomputed from the prefix alone: candidates, probabilities, divergence, entropy."""
    student, teacher = make_model(1), make_model(2)
    trajectories = collection.trajectories("train") + collection.trajectories("held_out")
    assert len(trajectories) == len(PROMPTS)
    for trajectory in trajectories[:4]:
        assert len(trajectory.groups) == math.ceil(0.2 * len(trajectory.response))
        kept = {group.step for group in trajectory.groups}
        lowest = min(trajectory.kl[step] for step in kept)
        assert all(v <= lowest for i, v in enumerate(trajectory.kl) if i not in kept)
        for group in trajectory.groups:
            ids = torch.tensor([[*trajectory.prompt, *trajectory.response[: group.step]]])
            with torch.no_grad():
                p = student(ids).logits[0, -1].double().log_softmax(0)
                q = teacher(ids).logits[0, -1].double().log_softmax(0)
            top = p.topk(16).indices
            assert list(group.candidates) == top[:4].tolist()
            close = dict(rtol=1e-4, atol=1e-5)
            expected = p[top[:4]].tolist()
            torch.testing.assert_close(list(group.student_logprobs), expected, **close)
            expected = q[top[:4]].exp().tolist()
            torch.testing.assert_close(list(group.teacher_probs), expected, **close)
            a, b = p[top].log_softmax(0), q[top].log_softmax(0)
            torch.testing.assert_close(group.kl, float((a.exp() * (a - b)).sum()), **close)
            torch.testing.assert_close(group.entropy, float(-(a.exp() * a).sum()), **close)


def test_splits_follow_the_groups():
    held_out = [p for p in PROMPTS if Prompt(p).is_held_out(0.4)]
    assert 0 < len(held_out) < len(PROMPTS)
    assert len({Prompt(p, group="template 7").is_held_out(0.4) for p in PROMPTS}) == 1
    assert not any(Prompt(p).is_held_out(0.0) for p in PROMPTS)


def test_a_tasks_train_split_has_a_held_out_part_of_its_own():
    """One hash for both splits would leave every prompt of a train split in training."""
    prompts = [Prompt(str(i)) for i in range(400)]
    train = [p for p in prompts if not p.is_held_out(HELD_OUT, SALT)]
    held_out = [p for p in train if p.is_held_out(0.2)]
    assert 0.1 < len(held_out) / len(train) < 0.3


def test_the_collection_counts_what_it_holds(collection):
    summary = collection.summary()
    assert summary["shards"] == collection.num_shards == 4
    assert summary["train"]["trajectories"] + summary["held_out"]["trajectories"] == len(PROMPTS)
    assert summary["train"]["groups"] > 0 and summary["held_out"]["groups"] > 0
    settings = collection.manifest["settings"]
    assert settings["student"]["fingerprint"] != settings["teacher"]["fingerprint"]
    assert len(settings["tokenizer_sha256"]) == 64 and settings["k"] == 4


@pytest.mark.parametrize("steps", ["entropy", "either"])
def test_steps_an_entropy_trigger_would_choose(tmp_path, collection, steps):
    """The same rollouts; of the least certain steps, or of these and those of highest KL."""
    other = run_collect(tmp_path, held_out=0.4, steps=steps)
    added = 0
    pairs = zip(other.trajectories("train"), collection.trajectories("train"), strict=True)
    for trajectory, by_kl in pairs:
        assert trajectory.response == by_kl.response and trajectory.kl == by_kl.kl
        count = math.ceil(0.2 * len(trajectory.response))
        ranked = sorted(range(len(trajectory.entropy)), key=lambda i: -trajectory.entropy[i])
        expected, known = set(ranked[:count]), {group.step for group in by_kl.groups}
        added += len(expected - known)
        if steps == "either":
            expected |= known
        assert [group.step for group in trajectory.groups] == sorted(expected)
    assert added > 0


def test_rollouts_of_another_collection(tmp_path, collection, monkeypatch):
    """Labelled anew to what collecting from the beginning gives, without decoding."""
    options = dict(held_out=0.4, steps="either", share=0.3)
    expected = run_collect(tmp_path / "decoded", **options)
    monkeypatch.setattr("s2t_ext.distillation.data.rollouts.roll_out", None)
    again = run_collect(tmp_path / "read", rollouts_from=collection.folder, **options)
    assert again.digest() == expected.digest()


def test_rollouts_of_other_options_are_refused(tmp_path, collection):
    with pytest.raises(ValueError, match="of the same rollouts, got .* in temperature, seed"):
        run_collect(tmp_path, rollouts_from=collection.folder, temperature=0.5, seed=7)
    with pytest.raises(FileNotFoundError, match="folder must hold manifest.json"):
        run_collect(tmp_path, rollouts_from=tmp_path / "none")
    unfinished = tmp_path / "unfinished"
    run_collect(unfinished).shard_path(1).unlink()
    being_written = unfinished / "shard.unfinished"  # by another process: reading leaves it alone
    being_written.touch()
    with pytest.raises(ValueError, match="must be a finished collection, .* lacks 1 of 4 shards"):
        run_collect(tmp_path / "new", rollouts_from=unfinished)
    assert not (tmp_path / "new").exists() and being_written.exists()
    run_collect(unfinished)
    assert not being_written.exists()


def test_seeds_share_no_random_numbers(tmp_path):
    """Two rollouts of seed 0 and two of seed 1, of the same prompts: all four differ."""
    runs = [run_collect(tmp_path / str(seed), rollouts=2, seed=seed) for seed in (0, 1)]
    found = [t for run in runs for split in SPLITS for t in run.trajectories(split)]
    by_prompt = {}
    for trajectory in found:
        by_prompt.setdefault(trajectory.prompt, []).append(trajectory.response)
    assert len(found) == 4 * len(PROMPTS) and len(by_prompt) == len(PROMPTS)
    assert all(len(set(responses)) == 4 for responses in by_prompt.values())


def test_nothing_depends_on_the_batch(tmp_path, collection):
    again = run_collect(tmp_path, held_out=0.4, batch_size=4)
    pairs = zip(again.trajectories("train"), collection.trajectories("train"), strict=True)
    assert all(a.prompt == b.prompt and a.response == b.response for a, b in pairs)


def test_a_finished_collection_is_not_collected_again(tmp_path, collection, monkeypatch):
    def fail(*_):
        raise AssertionError("labelled again")

    run_collect(tmp_path)
    monkeypatch.setattr(Labeller, "label", fail)
    run_collect(tmp_path)


def test_other_settings_are_refused(tmp_path):
    run_collect(tmp_path)
    with pytest.raises(ValueError, match="collect: output must be .* differs in share, support"):
        run_collect(tmp_path, share=0.5, support=20)


def test_reserved_ids_are_never_candidates(tmp_path, collection):
    first = collection.trajectories("train")[0].groups[0].candidates[0]
    other = run_collect(tmp_path, reserved_ids=(first,), temperature=0.0)
    groups = [g for t in other.trajectories("train") for g in t.groups]
    assert groups and all(first not in g.candidates for g in groups)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "before")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "after")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_damage_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="folder must hold manifest.json"):
        Collection(tmp_path)
    collection = run_collect(tmp_path)
    path = collection.shard_path(1)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match="trajectories-00001.jsonl line 3 must be JSON"):
        collection.trajectories()


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(k=1), r"collect: k must be in \[2, 64\], got 1"),
        (dict(k=20), r"collect: support must be in \[k, 64\] with k = 20, got 16"),
        (dict(share=0.0), r"collect: share must be in \(0, 1\], got 0.0"),
        (dict(steps="all"), "collect: steps must be one of kl, entropy, either, got all"),
        (dict(held_out=1.0), r"collect: held_out must be in \[0, 1\), got 1.0"),
        (dict(temperature=-1.0), "collect: temperature must be at least 0, got -1.0"),
        (
            dict(rollouts=4, temperature=0.0),
            "collect: rollouts must be 1 at .*, got 4",
        ),
        (dict(max_new_tokens=0), "collect: max_new_tokens must be at least 1, got 0"),
        (dict(batch_size=0), "collect: batch_size must be at least 1, got 0"),
    ],
)
def test_errors(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run_collect(tmp_path, **options)
