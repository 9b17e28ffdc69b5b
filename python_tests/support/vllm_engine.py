"""A vLLM engine in a process of its own, as its settings are read when vllm is imported.

`EngineProcess` is the side of the tests. Run as a program this file is the other side: it reads one
JSON request a line and answers with one JSON line.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

#: Engine -> (V2 runner, asynchronous scheduling).
ENGINES = {"v1": (False, False), "v2": (True, False), "v2-async": (True, True)}


def environment(plugins: Path | None = None) -> dict[str, str]:
    """The environment of a process that uses vLLM on a small machine."""
    package = importlib.util.find_spec("s2t_ext")
    assert package is not None and package.origin is not None
    folder = str(Path(package.origin).parents[1])  # the same as the tests use
    paths = [str(plugins), folder] if plugins else [folder]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_PLUGINS": "s2t_ext",
    }


class EngineProcess:
    """An `LLM` of the tiny models' size.

    Args:
        engine: One of `ENGINES`.
        model: Folder of the model.
        server: Our options of `additional_config`, or None for vLLM's own worker.
        **options: Further arguments of `LLM`.
    """

    def __init__(self, engine: str, model: Path, server: dict[str, Any] | None, **options: Any):
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self._ask(engine=engine, model=str(model), server=server, options=options)
        except BaseException:
            self.close()
            raise

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the engine's process ended with {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer["result"]

    def generate(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Tokens, log-probabilities and ends of requests that are served together.

        A request has `prompt` (token ids), arguments of `SamplingParams`, and perhaps `abort_after`
        (a number of tokens). One that is refused answers `error`.
        """
        return self._ask(method="generate", requests=requests)

    def counters(self) -> dict[str, int]:
        """What the engine has done since it started."""
        return self._ask(method="counters")

    def statistics(self) -> dict[str, Any]:
        """`collective_rpc("s2t_statistics")` of the first worker."""
        return self._ask(method="statistics")

    def labels(self, trajectories: list[dict[str, Any]]) -> list[list[Any]]:
        """Columns of `Teacher.from_vllm`'s answers to `UnlabelledTrajectory`s."""
        return self._ask(method="labels", trajectories=trajectories)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()


class _Engine:
    """The other side."""

    def __init__(self, engine: str, model: str, server: Any, options: dict[str, Any]) -> None:
        self.use_v2, self.is_async = ENGINES[engine]
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = str(int(self.use_v2))
        if self.use_v2:
            interpret_triton()
        if self.is_async:
            allow_asynchronous_scheduling()
        from vllm import LLM

        if server is not None:
            options = {
                "worker_cls": "s2t_ext.vllm.Worker",
                "additional_config": {"s2t": server},
                "logits_processors": ["s2t_ext.vllm:RequestCheck"],
                **options,
            }
        defaults = dict(
            dtype="float32",
            enforce_eager=True,
            block_size=32,
            max_model_len=256,
            max_num_seqs=32,
            max_num_batched_tokens=64,
            skip_tokenizer_init=True,
            async_scheduling=self.is_async,
        )
        self.llm = LLM(model, **{**defaults, **options})
        self.engine = self.llm.llm_engine
        core = self.engine.engine_core.engine_core
        self.scheduler = core.scheduler
        assert type(self.scheduler).__name__ == ("AsyncScheduler" if self.is_async else "Scheduler")
        self.counted = {"preemptions": 0, "cached_tokens": 0, "steps": 0, "forwards": 0}
        self._count_preemptions()
        worker = getattr(core.model_executor, "driver_worker", None)
        if worker is not None:
            worker.worker.model_runner.model.register_forward_pre_hook(self._count_forward)
        self.names = 0

    def _count_preemptions(self) -> None:
        kind, counted = type(self.scheduler), self.counted
        preempt = kind._preempt_request

        def count(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            counted["preemptions"] += 1
            return preempt(scheduler, *args, **kwargs)

        kind._preempt_request = count

    def _count_forward(self, *_: Any) -> None:
        self.counted["forwards"] += 1

    def generate(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        from vllm import SamplingParams
        from vllm.exceptions import VLLMValidationError

        answers: list[dict[str, Any]] = [{} for _ in requests]
        running = {}
        for i, request in enumerate(requests):
            given = dict(request)
            prompt, abort_after = given.pop("prompt"), given.pop("abort_after", None)
            self.names += 1
            name = str(self.names)
            params = SamplingParams(**{"temperature": 0, "detokenize": False, **given})
            try:
                self.engine.add_request(name, {"prompt_token_ids": prompt}, params)
            except (ValueError, VLLMValidationError) as error:
                answers[i] = {"error": str(error)}
                continue
            running[name] = (i, abort_after)
        while running:
            self.counted["steps"] += 1
            for output in self.engine.step():
                i, abort_after = running[output.request_id]
                done = output.outputs[0]
                answers[i] = {
                    "tokens": list(done.token_ids),
                    "finish_reason": done.finish_reason,
                    "logprobs": [
                        position[token].logprob
                        for token, position in zip(
                            done.token_ids, done.logprobs or [], strict=False
                        )
                    ],
                }
                if output.finished:
                    self.counted["cached_tokens"] += output.num_cached_tokens or 0
                    running.pop(output.request_id)
                elif abort_after is not None and len(done.token_ids) >= abort_after:
                    self.engine.abort_request([output.request_id])
                    running.pop(output.request_id)
        while self.engine.has_unfinished_requests():
            self.engine.step()
        return answers

    def counters(self) -> dict[str, int]:
        free = self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        return {**self.counted, "free_blocks": free}

    def labels(self, trajectories: list[dict[str, Any]]) -> list[list[Any]]:
        import torch

        from s2t_ext.teachers import Teacher, UnlabelledTrajectory

        given = [
            UnlabelledTrajectory(
                torch.tensor(each["input_ids"]),
                each["first"],
                torch.tensor(each["student_ids"]),
                torch.tensor(each["student_logits"]),
            )
            for each in trajectories
        ]
        answers = Teacher.from_vllm(self.llm).label_trajectories(given, top=5)
        return [[column.tolist() for column in (*a[:3], *a.top)] for a in answers]

    def statistics(self) -> dict[str, Any]:
        return self.llm.collective_rpc("s2t_statistics")[0]


def interpret_triton() -> None:
    """Lets the V2 runner, whose bookkeeping is Triton, run without a GPU: interpreted."""
    os.environ["TRITON_INTERPRET"] = "1"
    from triton.backends import Backend, backends

    class Driver:
        @staticmethod
        def is_active() -> bool:
            return False

    backends["cpu"] = Backend(compiler=None, driver=Driver)


def allow_asynchronous_scheduling() -> None:
    """The CPU platform switches it off: switched on again, for its order of events."""
    from vllm.platforms.cpu import CpuPlatform

    check = CpuPlatform.check_and_update_config.__func__

    def check_and_update_config(cls: type, config: Any) -> None:
        check(cls, config)
        config.scheduler_config.async_scheduling = True

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)


def main() -> None:
    """Answers until the tests' side goes away."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints must not get between the answers
    engine: _Engine | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if engine is None:
                engine = _Engine(**request)
                result = None
            else:
                result = getattr(engine, request.pop("method"))(**request)
            answer = {"result": result}
        except Exception as error:
            import traceback

            traceback.print_exc()
            answer = {"error": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
