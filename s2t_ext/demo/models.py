"""The models that ship with the package."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from s2t_ext.analysis.calibration import calibrate
from s2t_ext.demo import ASSETS
from s2t_ext.demo.problems import problems
from s2t_ext.selectors.selector import Selector
from s2t_ext.teachers.base import Teacher

#: Length of an answer, tokens.
MAX_NEW_TOKENS = 56


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
