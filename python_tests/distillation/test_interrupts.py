"""Ctrl-C during training: the step is finished and saved, and the run goes on from there."""

import os
import signal

import pytest
from collecting import make_model, run_collect

from s2t_ext.distillation.options import DistillConfig
from s2t_ext.distillation.run import TrainingRun
from s2t_ext.distillation.train import distill
from s2t_ext.runs.interrupts import interrupt_after_step


@pytest.fixture(autouse=True)
def listens():
    """A shell starts what runs in the background deaf to Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_after_ctrl_c_the_step_is_finished_and_saved(tmp_path, monkeypatch, capfd):
    collection = run_collect(tmp_path / "data", held_out=0.3)
    config = DistillConfig(method="rows", epochs=2, batch_size=2, bins=5, k=3)
    optimize = TrainingRun.optimize
    done = []

    def pressed(run, step, number, total):
        done.append(number)
        if len(done) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return optimize(run, step, number, total)

    monkeypatch.setattr(TrainingRun, "optimize", pressed)
    with pytest.raises(KeyboardInterrupt):
        distill(make_model(1), collection, tmp_path / "run", config)
    assert done == [0, 1] and "stopping after this step" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    distill(make_model(1), collection, tmp_path / "run", config, progress=True)
    assert done[2] == 2  # nothing of the first two is repeated
    assert "loss=" in capfd.readouterr().err


def test_a_second_ctrl_c_does_not_wait():
    with pytest.raises(KeyboardInterrupt), interrupt_after_step() as interrupted:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted()
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
