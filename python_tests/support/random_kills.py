"""What resumes, killed at random moments: the same files as in peace.

    python random_kills.py FOLDER KILLS collect|two|evaluate|sufficiency|lora|rows|full

runs one of them undisturbed, then again under SIGKILL, in forked children, and compares what is
left. "two", "evaluate" and "sufficiency" are shared by two processes when they are killed. Run by
test_random_kills.py in a process of its own, since it forks.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evaluating
import torch
from collecting import PROMPTS, make_model, run_collect
from safetensors.torch import load_file

from s2t_ext import Teacher, measure_sufficiency
from s2t_ext.demo.pretrain import make_tokenizer
from s2t_ext.distillation.data.collection import Collection
from s2t_ext.distillation.options import DistillConfig
from s2t_ext.distillation.train import distill

fsync = os.fsync


def killed(work: Callable[[], None], kills: int, duration: float) -> int:
    """Runs `work` in children until one ends by itself; kills the first `kills` of them."""
    rng, done = random.Random(time.time_ns()), 0
    while True:
        child = os.fork()
        if child == 0:
            work()
            os._exit(0)
        if done < kills:
            time.sleep(rng.uniform(0, 1.5 * duration / kills))
            os.kill(child, signal.SIGKILL)
            done += 1
        status = os.waitpid(child, 0)[1]
        if status == 0:
            return done
        assert os.WIFSIGNALED(status), "the child failed by itself"


def killed_as_two(work: Callable[[], None], kills: int, duration: float) -> int:
    """The same with two processes that share the work, each killed by itself."""
    supervisors = []
    for rank in range(2):
        supervisors.append(os.fork())
        if supervisors[-1] == 0:
            os.environ.update(RANK=str(rank), WORLD_SIZE="2")
            killed(work, kills, duration)
            os._exit(0)
    assert [os.waitpid(pid, 0)[1] for pid in supervisors] == [0, 0], "a process failed by itself"
    return 2 * kills


def slow_fsync(handle: int) -> None:
    """As of a busy disk, so that kills fall into writes too."""
    fsync(handle)
    time.sleep(0.05)


def collected(folder: Path) -> dict:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def trained(folder: Path) -> dict:
    """Everything a run leaves, without its times."""
    result: dict = {"quality": json.loads((folder / "quality.json").read_text())}
    for path in sorted((folder / "selector").glob("*.safetensors")):
        result[path.name] = {name: value.tolist() for name, value in load_file(path).items()}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    result["metrics"] = [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
    return result


def without_times(value: Any) -> Any:
    """JSON values without those named "seconds"."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k != "seconds"}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def answered(folder: Path) -> dict:
    """The results and reports of a run, without times; nothing is left of the second process."""
    found: dict = {p.name: json.loads(p.read_text()) for p in folder.glob("*.json")}
    for path in (folder / "results").iterdir():
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found[path.name] = sorted(lines, key=lambda line: line.get("number", line.get("index")))
    return without_times(found)


def main(folder: Path, kills: int, what: str) -> None:
    torch.set_num_threads(1)
    os.fsync = slow_fsync
    if what in ("collect", "two"):

        def work(name: str) -> None:
            run_collect(folder / name, batch_size=1, rollouts=3, teacher_topk=4, progress=False)

        read = collected
    elif what == "evaluate":

        def work(name: str) -> None:
            evaluating.run(folder / name, ["greedy", "maj@2"], problems, batch_size=1)

        problems, read = evaluating.problems(), answered
    elif what == "sufficiency":

        def work(name: str) -> None:
            measure_sufficiency(
                make_model(1),
                make_tokenizer(),
                Teacher.from_model(make_model(2)),
                PROMPTS,
                folder / name,
                max_new_tokens=12,
                batch_size=1,
                bootstrap_samples=20,
                use_chat_template=False,
                progress=False,
            )

        read = answered
    else:
        run_collect(folder / "data", held_out=0.3, rollouts=2, progress=False)
        config = DistillConfig(
            method=what, epochs=6, batch_size=1, lora_r=2, bins=5, k=3, checkpoint_every=2
        )

        def work(name: str) -> None:
            distill(
                make_model(1), Collection(folder / "data"), folder / name, config, progress=False
            )

        read = trained
    start = time.monotonic()
    work("peace")
    kill = killed_as_two if what in ("two", "evaluate", "sufficiency") else killed
    done = kill(lambda: work("war"), kills, time.monotonic() - start)
    peace, war = read(folder / "peace"), read(folder / "war")
    differ = {
        name: (peace.get(name), war.get(name))
        for name in {*peace, *war}
        if peace.get(name) != war.get(name)
    }
    assert not differ, f"a resumed run differs: {str(differ)[:4000]}"
    left = [path.name for path in (folder / "war").rglob("*.unfinished")]
    assert not left, f"a resumed run leaves {left}"
    print(f"{what}: {done} kills, the same files")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
