"""Collecting: what is recorded, and that a killed run resumes to the same result."""

import json
import math
import os

import pytest
import torch
from collecting import OPTIONS, PROMPTS, make_model, run_collect
from safetensors.torch import load_file

from s2t_ext.demo.pretrain import make_tokenizer
from s2t_ext.distillation.data.collect import collect
from s2t_ext.distillation.data.collection import SPLITS, Collection
from s2t_ext.distillation.data.labeller import Labeller
from s2t_ext.distillation.groups import TOP_LOGPROBS
from s2t_ext.runs.files import write_atomically
from s2t_ext.teachers.base import Teacher


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
        ids = torch.tensor([[*trajectory.prompt, *trajectory.response]])
        with torch.no_grad():
            every = student(ids).logits[0].double().log_softmax(-1).topk(TOP_LOGPROBS).values
        expected = every[len(trajectory.prompt) - 1 : -1].float()
        actual = torch.tensor(trajectory.top_logprobs)
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5)
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


def test_the_teachers_likeliest_tokens_lie_beside_the_shards(tmp_path, collection):
    """float16 log-probabilities and int32 ids by the definition; the trajectories are as without
    them, and a folder goes on only with as many."""
    kept = run_collect(tmp_path, held_out=0.4, teacher_topk=5)
    trajectories = kept.trajectories("train")
    assert trajectories == collection.trajectories("train")
    assert kept.digest() != collection.digest() and collection.teacher_tokens() is None
    stored = load_file(kept.tokens_path(0))
    assert {tensor.dtype for tensor in stored.values()} == {torch.int32, torch.float16}
    tokens, teacher = kept.teacher_tokens(), make_model(2)
    ids, logprobs = tokens.of(trajectories[:2])
    expected = []
    for trajectory in trajectories[:2]:
        assert trajectory in tokens
        row = torch.tensor([[*trajectory.prompt, *trajectory.response]])
        with torch.no_grad():
            logits = teacher(row).logits[0, len(trajectory.prompt) - 1 : -1]
        expected.append(logits.double().softmax(1))
    p = torch.cat(expected)
    assert torch.equal(ids, p.topk(5, dim=1).indices)
    best = p.topk(5, dim=1).values
    whole = torch.cat([best, 1 - best.sum(dim=1, keepdim=True)], dim=1)
    torch.testing.assert_close(logprobs.double().exp(), whole, atol=1e-3, rtol=2e-3)
    with pytest.raises(ValueError, match="differs in teacher_topk"):
        run_collect(tmp_path, held_out=0.4, teacher_topk=6)


def test_the_student_is_refused_as_its_own_teacher(tmp_path):
    teacher = Teacher.from_model(make_model(1))
    message = "collect: teacher must be another model than the student, got the same weights"
    with pytest.raises(ValueError, match=message):
        collect(make_model(1), make_tokenizer(), teacher, PROMPTS, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def fine_tuned(factor):
    """Not the student, whose embeddings it has."""
    model = make_model(1)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(factor)
    return model


def test_a_fine_tune_of_the_student_may_teach_it(tmp_path):
    teacher, other = (Teacher.from_model(fine_tuned(factor)) for factor in (1.5, 2.0))
    options = {**OPTIONS, "temperature": 1.0}
    collect(make_model(1), make_tokenizer(), teacher, PROMPTS, tmp_path, **options)
    with pytest.raises(ValueError, match="differs in teacher:"):
        collect(make_model(1), make_tokenizer(), other, PROMPTS, tmp_path, **options)
    with pytest.raises(ValueError, match="differs in student:"):
        collect(fine_tuned(1.2), make_tokenizer(), teacher, PROMPTS, tmp_path, **options)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for model in ("student", "teacher"):
        del manifest["settings"][model]["weights"]  # of a folder made before they were written down
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    collect(make_model(1), make_tokenizer(), teacher, PROMPTS, tmp_path, **options)


def test_the_bar_of_a_resumed_collection_begins_where_it_stopped(tmp_path, capfd):
    folder = tmp_path / "collection"
    run_collect(folder).shard_path(2).unlink()
    capfd.readouterr()
    run_collect(folder, progress=True)
    shown = capfd.readouterr().err
    assert "| 3/4 [" in shown and "| 4/4 [" in shown


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


def test_a_process_among_several_removes_what_it_has_left_itself(tmp_path, monkeypatch):
    """And what processes have left that there are no more; others may be writing theirs."""
    folder = run_collect(tmp_path).folder
    names = {i: f"manifest.json.process-{i}.x.unfinished" for i in range(3)}
    mine, others = [names[1], names[2], "manifest.json.x.unfinished"], [names[0]]
    for name in (*mine, *others):
        (folder / name).touch()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    run_collect(tmp_path)
    assert {p.name for p in folder.glob("*.unfinished")} == set(others)


def test_a_process_killed_while_it_writes_the_manifest_leaves_its_name(tmp_path, monkeypatch):
    def killed(*names):
        found.extend(p.name for p in tmp_path.iterdir())
        raise KeyboardInterrupt

    found = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run_collect(tmp_path)
    assert len(found) == 1 and found[0].startswith("manifest.json.process-1.")


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
        (
            dict(steps="kl", entropy_threshold=0.4),
            "collect: entropy_threshold must be left out for steps='kl', .* got 0.4",
        ),
        (
            dict(steps="entropy", entropy_threshold=-0.1),
            "collect: entropy_threshold must be at least 0 and finite, got -0.1",
        ),
        (dict(held_out_by="text"), "collect: held_out_by must be one of group, prompt, got text"),
        (dict(held_out=1.0), r"collect: held_out must be in \[0, 1\), got 1.0"),
        (dict(temperature=-1.0), "collect: temperature must be at least 0, got -1.0"),
        (
            dict(rollouts=4, temperature=0.0),
            "collect: rollouts must be 1 at .*, got 4",
        ),
        (dict(teacher_topk=65), r"collect: teacher_topk must be in \[0, 64\], got 65"),
        (dict(max_new_tokens=0), "collect: max_new_tokens must be at least 1, got 0"),
        (dict(batch_size=0), "collect: batch_size must be at least 1, got 0"),
    ],
)
def test_errors(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run_collect(tmp_path, **options)
