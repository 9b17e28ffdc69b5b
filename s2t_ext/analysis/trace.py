"""One prompt decoded plainly and with Select-to-Think, step by step, for the page that shows it."""

from __future__ import annotations

import platform
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import nn

from s2t_ext._version import __version__
from s2t_ext.config import S2TConfig
from s2t_ext.rollouts import roll_out
from s2t_ext.runs.seeds import row_seed
from s2t_ext.selectors.selector import Selector
from s2t_ext.selectors.thresholds import resolve_trigger
from s2t_ext.teachers.base import Teacher

_NAMES = {"local": "S2T-LOCAL", "teacher": "S2T, the teacher selects", "takeover": "takeover"}


def trace(
    model: nn.Module,
    tokenizer: Any,
    prompt: str,
    *,
    s2t: S2TConfig | None = None,
    selector: Selector | None = None,
    teacher: Teacher | None = None,
    max_new_tokens: int = 256,
    seed: int = 0,
    use_chat_template: bool = True,
    command: str = "",
) -> dict[str, Any]:
    """Decodes a prompt greedily, and with Select-to-Think.

    Args:
        model: The student.
        tokenizer: Its tokenizer.
        prompt: Text; with `use_chat_template` one user turn.
        s2t: Options; None takes the selector's, else the defaults.
        selector: The score head, where the options need one.
        teacher: A `Teacher`, where the options need one.
        max_new_tokens: Length of an answer, tokens.
        seed: Key of the random numbers of the random trigger.
        use_chat_template: Wrap the prompt in the chat template.
        command: What was typed, to be shown on the page.

    Returns:
        A document for `s2t_ext.runs.trace_page.trace_page`.
    """
    config = s2t or (selector.decoding if selector is not None else None) or S2TConfig()

    def decoded(name: str, config: S2TConfig, teacher: Teacher | None) -> dict[str, Any]:
        rollouts = roll_out(
            model,
            tokenizer,
            [prompt],
            max_new_tokens=max_new_tokens,
            s2t=config,
            seeds=[row_seed(seed, 0)],
            use_chat_template=use_chat_template,
            selector=selector,
            teacher=teacher,
        )
        steps = rollouts.record.trace(tokenizer)
        if teacher is not None:  # the scores of its choices are its own log-probabilities
            for candidate in (c for step in steps for c in step["candidates"]):
                candidate["teacher"] = candidate.pop("score")
        return {"name": name, "summary": rollouts.record.summary(), "steps": steps}

    plain = replace(config, trigger="never", threshold=None, select="local")
    return {
        "title": f"{_NAMES[config.select]}, step by step",
        "prompt": prompt,
        "command": command,
        "settings": _settings(model, config, selector, teacher),
        "versions": {
            "s2t_ext": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "Python": platform.python_version(),
        },
        "trigger": config.trigger,
        "threshold": resolve_trigger(config, selector).threshold,
        "runs": [
            decoded("greedy", plain, None),
            decoded(_NAMES[config.select], config, teacher),
        ],
    }


def _settings(
    model: Any, config: S2TConfig, selector: Selector | None, teacher: Teacher | None
) -> dict[str, Any]:
    """What decided, in words."""
    threshold = resolve_trigger(config, selector).threshold
    return {
        "model": str(getattr(model.config, "name_or_path", "")).rstrip("/").rsplit("/", 1)[-1],
        "chosen by": "the teacher" if teacher is not None else "a selector",
        "trigger": config.trigger
        if threshold != threshold
        else f"{config.trigger} {threshold:.3g}",
        "candidates": config.k,
        "proposer": config.proposer if config.select == "local" else None,
    }
