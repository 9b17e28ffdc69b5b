"""Training on accelerate: several processes, mixed precision, trackers."""

import json
import math
import time

import pytest
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from accelerate.utils import DistributedType
from collecting import FAST, make_model, run_collect
from distill_process import processes, run_processes
from safetensors.torch import load_file

from s2t_ext.distillation.options import DistillConfig
from s2t_ext.distillation.train import distill


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collected")
    return run_collect(folder, held_out=0.3, rollouts=2, teacher_topk=4)


def files(folder):
    """Everything a run leaves, without its times."""
    tensors = {p.name: load_file(p) for p in sorted((folder / "selector").glob("*.safetensors"))}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds", None)
    return tensors, lines


@pytest.mark.parametrize(("method", "accumulation"), [("lora", 2), ("rows", 1), ("full", 1)])
def test_two_processes_do_what_accumulating_their_batches_does(
    tmp_path, collection, method, accumulation
):
    options = {**FAST, "lora_dropout": 0.0, "method": method}
    if method == "full":
        options["learning_rate"] = 1e-3
    one = DistillConfig(**options, accumulation=2 * accumulation)
    distill(make_model(1), collection, tmp_path / "one", one)
    both = {**options, "accumulation": accumulation}
    run_processes(2, collection.folder, tmp_path / "two", both)
    # In the last step of an epoch one process has a batch less, or none.
    assert math.ceil(len(collection.trajectories("train")) / 2) % 2 == 1
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert len(one[1]) == len(two[1])
    for a, b in zip(one[1], two[1], strict=True):
        assert a.keys() == b.keys()
        for name in [name for name in a if name.startswith(("loss_", "grad_norm"))]:
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5), name
    for name, tensors in one[0].items():
        for key, value in tensors.items():
            torch.testing.assert_close(two[0][name][key], value, rtol=1e-3, atol=1e-4)


def test_two_processes_that_are_killed_resume_to_the_same_result(tmp_path, collection):
    """Bit by bit, with dropout: every process goes on with its own random numbers."""
    options = {**FAST, "epochs": 4, "lora_dropout": 0.2}
    run_processes(2, collection.folder, tmp_path / "peace", options)
    with processes(2, collection.folder, tmp_path / "war", options) as started:
        deadline = time.monotonic() + 120
        while not (tmp_path / "war" / "checkpoint.pt").exists():
            assert time.monotonic() < deadline and started[0].poll() is None
            time.sleep(0.01)
    assert not (tmp_path / "war" / "selector").exists()
    run_processes(2, collection.folder, tmp_path / "war", options)
    peace, war = files(tmp_path / "peace"), files(tmp_path / "war")
    assert peace[1] == war[1]
    for name, tensors in peace[0].items():
        for key, value in tensors.items():
            assert torch.equal(war[0][name][key], value), f"{name}: {key}"


def test_mixed_precision_computes_in_bfloat16_and_keeps_the_weights(tmp_path, collection):
    options = {**FAST, "loss": {"base_kl_weight": 0.1, "teacher_kl_weight": 0.5}}
    run_processes(1, collection.folder, tmp_path / "fp32", options)
    mixed = {"ACCELERATE_MIXED_PRECISION": "bf16"}
    run_processes(1, collection.folder, tmp_path / "bf16", options, **mixed)
    exact, rough = files(tmp_path / "fp32"), files(tmp_path / "bf16")
    assert {t.dtype for t in rough[0]["adapter_model.safetensors"].values()} == {torch.float32}
    for a, b in zip(exact[1], rough[1], strict=True):
        for name in ("loss_groups", "loss_teacher_kl"):
            if name in a:
                assert a[name] != b[name] and a[name] == pytest.approx(b[name], rel=0.1), name
    with pytest.raises(AssertionError, match="differs in mixed_precision"):
        run_processes(1, collection.folder, tmp_path / "fp32", options, **mixed)


class Notes(GeneralTracker):
    """A tracker that keeps what it is told."""

    name, requires_logging_directory = "notes", False

    def __init__(self):
        super().__init__()
        self.config, self.logged, self.finished = None, [], False

    @property
    def tracker(self):
        return self.logged

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step=None, **_):
        assert not self.finished
        self.logged.append({"step": step, **values})

    def finish(self):
        self.finished = True


def test_trackers_get_the_numbers_of_the_metrics(tmp_path, collection):
    notes = Notes()
    config = DistillConfig(**FAST)
    distill(make_model(1), collection, tmp_path, config, report_to=[notes, "tensorboard"])
    lines = files(tmp_path)[1]
    assert notes.finished and notes.config["loss/kind"] == "top1" and notes.config["epochs"] == 2
    assert [n["step"] for n in notes.logged] == [line["step"] for line in lines]
    for noted, line in zip(notes.logged, lines, strict=True):
        assert noted.get("loss_groups") == line.get("loss_groups")
        if "held_out" in line:
            assert noted["held_out/agreement"] == line["held_out"]["agreement"]
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("events.out.tfevents.*"))
    assert written.count(b"loss_groups") == sum("loss_groups" in line for line in lines)


def test_engines_that_split_the_model_are_refused(tmp_path, collection, monkeypatch):
    split = property(lambda self: DistributedType.FSDP)
    monkeypatch.setattr(Accelerator, "distributed_type", split)
    with pytest.raises(ValueError, match="distill: the launcher's engine must be data-par.* FSDP"):
        distill(make_model(1), collection, tmp_path, DistillConfig(**FAST))


def test_errors(tmp_path, collection):
    with pytest.raises(ValueError, match="report_to must name trackers .* installed, got .'comet_"):
        distill(make_model(1), collection, tmp_path, DistillConfig(**FAST), report_to=["comet_ml"])
    with pytest.raises(ValueError, match="distill: process_timeout must be above 0 s, got 0"):
        distill(make_model(1), collection, tmp_path, DistillConfig(**FAST), process_timeout=0)
