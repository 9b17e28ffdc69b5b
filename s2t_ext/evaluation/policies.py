"""The ways to an answer that are compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from s2t_ext.config import S2TConfig
from s2t_ext.rollouts import PLAIN
from s2t_ext.runs.number_arguments import normalise_number_fields
from s2t_ext.selectors.selector import Selector
from s2t_ext.triggers import TRIGGERS

#: "maj@K" takes any K, and the teacher and those that choose any label behind an @, so that results
#: of several teachers, selectors or triggers can stand in one folder; the others are exact names.
POLICIES = (
    "greedy",
    "adapted",
    "maj@8",
    "teacher",
    "takeover",
    "s2t",
    "s2t-local",
    "s2t-local-pps",
)


@dataclass(frozen=True)
class Policy:
    """One way to an answer.

    Attributes:
        name: As in `POLICIES`.
        config: How it decodes.
        by_teacher: The teacher writes alone.
        needs_teacher: Whether it asks a teacher.
        needs_selector: Whether it asks a selector.
        paths: Sampled answers that vote; 1 answers greedily.
        temperature: Of the sampling.
        top_p: Of the sampling.
    """

    name: str
    config: S2TConfig
    by_teacher: bool = False
    needs_teacher: bool = False
    needs_selector: bool = False
    paths: int = 1
    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        normalise_number_fields(self)
        if self.paths > 1 and self.temperature <= 0:
            raise ValueError(
                f"Policy: temperature must be above 0 for {self.name} (greedy answers are all the "
                f"same), got {self.temperature}"
            )

    def teacher_steps(self, steps: int, triggers: int) -> int:
        """At how many of the steps of an answer the teacher was asked.

        Args:
            steps: All of them.
            triggers: Those that needed a choice.
        """
        if not self.needs_teacher:
            return 0
        at_every_step = self.by_teacher or TRIGGERS[self.config.trigger].reads_teacher
        return steps if at_every_step else triggers

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def make_policy(
    name: str,
    *,
    selector: Selector | None = None,
    k: int | None = None,
    teacher_trigger: str = "kl",
    teacher_threshold: float = 0.88,
    local_trigger: str | None = None,
    local_threshold: float | None = None,
    temperature: float = 0.7,
    top_p: float = 0.95,
) -> Policy:
    """A policy of the paper by its name.

    Args:
        name: One of `POLICIES`, "maj@K", or one that chooses, or the teacher, with a label:
            "s2t-local@rows".
            "adapted" is greedy decoding by the selector's adapter. Those that choose take options
            of their own behind a colon, before the arguments below:
            "s2t@entropy:trigger=entropy,threshold=0.43"; see `split_policy`.
        selector: Of S2T-LOCAL; its own decoding options are the defaults there.
        k: Candidates per choice; None takes the selector's for S2T-LOCAL, else 8.
        teacher_trigger: Of s2t and takeover.
        teacher_threshold: Of s2t and takeover; KL above 0.88 nats is 5 % of the steps of the
            Qwen2.5-Coder pair.
        local_trigger: Of S2T-LOCAL; None takes the selector's.
        local_threshold: Of S2T-LOCAL; None takes the selector's.
        temperature: Of maj@K.
        top_p: Of maj@K.

    Raises:
        ValueError: for an unknown name, or a selector that is missing.
    """
    paths = re.fullmatch(r"maj@(\d+)", name)
    if paths and int(paths[1]) >= 1:
        sampling = dict(temperature=temperature, top_p=top_p)
        return Policy(name, PLAIN, paths=int(paths[1]), **sampling)  # type: ignore[arg-type]
    if name == "greedy":
        return Policy(name, PLAIN)
    if name == "adapted":
        config = S2TConfig(trigger="never", proposer="adapted")
        return Policy(name, config, needs_selector=True)
    if re.fullmatch(r"teacher(@[\w.-]+)?", name):
        return Policy(name, PLAIN, by_teacher=True, needs_teacher=True)
    name, own = split_policy(name)
    guided = re.fullmatch(r"(s2t|takeover)(@[\w.-]+)?", name)
    if guided:
        config = S2TConfig(
            k=k or 8, trigger=teacher_trigger, threshold=teacher_threshold,
            select="teacher" if guided[1] == "s2t" else "takeover",
            proposer="base",
        )  # fmt: skip
        return Policy(name, _with_own(config, own, None), needs_teacher=True)
    local = re.fullmatch(r"s2t-local(-pps)?(@[\w.-]+)?", name)
    if not local:
        raise ValueError(
            f"evaluate: policies must be among {', '.join(POLICIES)} (or maj@K, or s2t@LABEL and "
            f"so on for those that choose), got {name!r}"
        )
    if selector is None:
        raise ValueError(f"evaluate: selector must be given for {name}, got None")
    given = dict(k=k, trigger=local_trigger, threshold=local_threshold)
    config = (selector.decoding or S2TConfig()).with_options(
        select="local", **{name: value for name, value in given.items() if value is not None}
    )
    if local[1]:
        config = config.with_options(proposer="base")
    config = _with_own(config, own, selector)
    return Policy(
        name, config, needs_selector=True, needs_teacher=TRIGGERS[config.trigger].reads_teacher
    )


#: Options that a policy that chooses may have behind its name, and how they are read.
OWN_OPTIONS: dict[str, Callable[[str], Any]] = {
    "k": int,
    "override_margin": float,
    "threshold": float,
    "trigger": str,
}


def split_policy(text: str) -> tuple[str, dict[str, Any]]:
    """The name of a policy and the options of its own behind it.

    Args:
        text: "NAME" or "NAME:OPTION=VALUE,..." with the options `k`, `override_margin`,
            `threshold` and `trigger` of `S2TConfig`.

    Returns:
        The name, under which results are kept, and the options by their names.

    Raises:
        ValueError: for anything else behind the colon.
    """
    name, colon, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in rest.split(",") if colon else ():
        key, _, value = part.partition("=")
        try:
            if key in options:
                raise ValueError
            options[key] = OWN_OPTIONS[key](value)
        except (KeyError, ValueError):
            raise ValueError(
                "evaluate: options of a policy must be NAME=VALUE once each, with a NAME among "
                f"{', '.join(OWN_OPTIONS)}, got {part!r} in {text!r}"
            ) from None
    return name, options


def _with_own(config: S2TConfig, own: Mapping[str, Any], selector: Selector | None) -> S2TConfig:
    """With a policy's own options."""
    if own.get("trigger", config.trigger) != config.trigger:
        trigger = TRIGGERS.get(own["trigger"])
        has_threshold = trigger is None or trigger.has_threshold  # S2TConfig refuses an unknown one
        if selector is None and has_threshold and "threshold" not in own:
            raise ValueError(
                f"evaluate: threshold must be given with trigger={own['trigger']} where no "
                "selector has a calibrated one, got none"
            )
    return config.with_options(**own)
