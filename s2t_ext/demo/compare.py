"""The demo's comparison: greedy, majority of eight, S2T and S2T-LOCAL on the same held-out
problems.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from s2t_ext.analysis.calibration import calibrate
from s2t_ext.config import S2TConfig
from s2t_ext.decoding.record import DecodingRecord, S2TGenerateOutput, StepEvent
from s2t_ext.demo import ASSETS
from s2t_ext.demo.problems import Problem, answer_of, problems
from s2t_ext.generation import generate
from s2t_ext.hf.prompts import pad_prompts
from s2t_ext.runs.statistics import wilson
from s2t_ext.selectors.selector import Selector
from s2t_ext.teachers.base import Teacher

MAX_NEW_TOKENS = 56
SAMPLES = 8
METHODS = ("greedy", "maj@8", "s2t", "s2t-local")


@dataclass
class Demo:
    """The demo's models.

    Attributes:
        student: Without adapter.
        adapted: The student with the selector's adapter.
    """

    student: Any
    adapted: Any
    teacher: Teacher
    teacher_model: Any
    selector: Selector
    tokenizer: Any

    @classmethod
    def load(cls, assets: Path = ASSETS) -> Demo:
        """Loads the models that ship with the package; needs no network.

        Raises:
            FileNotFoundError: if this installation has none.
        """
        if not (assets / "selector").is_dir():
            raise FileNotFoundError(
                f"demo: assets must hold the demo's models, got none in {assets} (make them with "
                "python -m s2t_ext.demo.build)"
            )
        student, adapted, teacher = (
            AutoModelForCausalLM.from_pretrained(assets / name, dtype=torch.float32).eval()
            for name in ("student", "student", "teacher")
        )
        tokenizer = AutoTokenizer.from_pretrained(assets / "student")
        selector = Selector.from_pretrained(assets / "selector", adapted)
        model = selector.adapted_model if selector.adapted_model is not None else adapted
        wrapped = Teacher.from_model(teacher, tokenizer)
        return cls(student, model, wrapped, teacher, selector, tokenizer)

    def set_rate(self, rate: float) -> None:
        """Calibrates the trigger anew, on problems of the dev split."""
        dev = [p.prompt for p in itertools.islice(problems("dev", 0), 128)]
        calibrate(
            self.student,
            self.tokenizer,
            dev,
            rate=rate,
            selector=self.selector,
            max_new_tokens=MAX_NEW_TOKENS,
            batch_size=64,
            use_chat_template=False,
            progress=False,
        )


@dataclass
class Outcome:
    """One method on all problems.

    Attributes:
        responses: Text of each response (maj@8: of the first sample with the majority's answer).
        right: Whether each answer is right.
        forward_passes: Calls of the student.
        tokens: Token positions through the student.
        teacher_passes: Calls of the teacher.
        seconds: Wall-clock time.
        triggers: Steps that needed a choice.
        changed: Steps whose token the choice changed.
        steps: All steps.
        events: Per step, of runs that choose.
    """

    method: str
    responses: list[str]
    right: list[bool]
    forward_passes: int
    tokens: int
    seconds: float
    teacher_passes: int = 0
    triggers: int = 0
    changed: int = 0
    steps: int = 0
    events: list[StepEvent] = field(default_factory=list, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the responses and events, as plain JSON values."""
        names = ("forward_passes", "tokens", "teacher_passes", "triggers", "changed", "steps")
        return {
            "method": self.method,
            "problems": len(self.right),
            "right": sum(self.right),
            "interval": self.interval,
            **{name: getattr(self, name) for name in names},
            "seconds": round(self.seconds, 3),
        }

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return sum(self.right) / len(self.right)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        estimate = wilson(sum(self.right), len(self.right))
        return estimate.low, estimate.high


def held_out_problems(count: int) -> list[Problem]:
    """The problems of the demo; nothing was trained or tuned on their split."""
    return list(itertools.islice(problems("held_out", 0), count))


def run_method(method: str, demo: Demo, some: list[Problem]) -> Outcome:
    """One of METHODS on some problems, in one batch (maj@8: eight)."""
    if method == "greedy":
        return _decode(method, demo, demo.student, some, S2TConfig(trigger="never"))
    if method == "maj@8":
        return _majority(demo, some)
    threshold = demo.selector.calibrations["entropy"].threshold
    decoding = demo.selector.decoding or S2TConfig()
    if method == "s2t":
        config = S2TConfig(
            trigger="entropy",
            threshold=threshold,
            select="teacher",
            warmup_steps=decoding.warmup_steps,
        )
        return _decode(method, demo, demo.student, some, config, teacher=demo.teacher)
    return _decode(method, demo, demo.adapted, some, decoding, selector=demo.selector)


def _decode(
    method: str, demo: Demo, model: Any, some: list[Problem], config: S2TConfig, **guides: Any
) -> Outcome:
    events: list[StepEvent] = []
    start = time.perf_counter()
    output = _generate(demo, model, some, config, on_step=events.append, **guides)
    seconds = time.perf_counter() - start
    assert output.s2t is not None
    responses = _texts(demo, output.s2t)
    record = output.s2t
    return Outcome(
        method,
        responses,
        [answer_of(r) == p.answer for r, p in zip(responses, some, strict=True)],
        record.forward_passes,
        record.tokens_through_model,
        seconds,
        record.teacher_forward_passes,
        record.triggers,
        record.changed_tokens,
        record.steps,
        events,
    )


def _majority(demo: Demo, some: list[Problem]) -> Outcome:
    start = time.perf_counter()
    samples: list[list[str]] = []
    passes = tokens = steps = 0
    for number in range(SAMPLES):
        output = _generate(
            demo,
            demo.student,
            some,
            S2TConfig(trigger="never"),
            seed=1000 * number,
            do_sample=True,
            temperature=0.7,
        )
        assert output.s2t is not None
        samples.append(_texts(demo, output.s2t))
        passes += output.s2t.forward_passes
        tokens += output.s2t.tokens_through_model
        steps += output.s2t.steps
    seconds = time.perf_counter() - start
    responses, right = [], []
    for i, problem in enumerate(some):
        answers = [answer_of(texts[i]) for texts in samples]
        votes = Counter(a for a in answers if a is not None)
        winner = votes.most_common(1)[0][0] if votes else None
        responses.append(samples[answers.index(winner)][i])
        right.append(winner == problem.answer)
    return Outcome("maj@8", responses, right, passes, tokens, seconds, steps=steps)


def _generate(
    demo: Demo, model: Any, some: list[Problem], config: S2TConfig, **options: Any
) -> S2TGenerateOutput:
    inputs = pad_prompts(demo.tokenizer, [p.prompt for p in some], model)
    options = {"do_sample": False, **options}
    output = generate(
        model,
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        s2t=config,
        max_new_tokens=MAX_NEW_TOKENS,
        return_dict_in_generate=True,
        **options,
    )
    assert isinstance(output, S2TGenerateOutput)
    return output


def _texts(demo: Demo, record: DecodingRecord) -> list[str]:
    eos = demo.tokenizer.eos_token_id
    return [demo.tokenizer.decode([t for t in row.tokens if t != eos]) for row in record.rows]
