"""S2TConfig: every option of Select-to-Think decoding, validated once."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from s2t_ext.runs.checks import require
from s2t_ext.runs.files import locate_file, read_json, write_atomically
from s2t_ext.runs.numbers import integer, number
from s2t_ext.triggers import TRIGGERS

CONFIG_NAME = "s2t_config.json"

SELECT_MODES = ("local", "teacher", "takeover")
PROPOSERS = ("adapted", "base")
STEP_MODES = ("auto", "tree", "expand")


@dataclass(frozen=True)
class S2TConfig:
    """Options of one decoding run (arXiv 2604.26940, section 3; the defaults are the paper's unless
    noted).

    Raises:
        ValueError: if an option lies outside its range; the message names the option, the rule and
            the value.
    """

    #: Candidates per triggered step, 1..64.
    k: int = 8
    #: Size of the renormalised support the entropy is taken over, k..64; 0 means the full
    #: vocabulary.
    support: int = 64
    #: Keep only candidates with p > candidate_ratio * p_max (0 keeps all k).
    candidate_ratio: float = 0.0
    #: When a step needs a choice; see `s2t_ext.triggers`.
    trigger: str = "entropy"
    #: Threshold of the trigger's statistic (nats for entropy and kl, logits for margin, probability
    #: for head,
    #: rate for random). None takes the selector's calibrated threshold.
    threshold: float | None = None
    #: No trigger in the first steps of a generation.
    warmup_steps: int = 3
    #: Who chooses: the selector, the teacher among the candidates (S2T), or the teacher over the
    #: vocabulary.
    select: str = "local"
    #: Whose logits propose: the adapted model (paper) or the base model (proposal-preserving
    #: selection).
    proposer: str = "adapted"
    #: 0 takes the best score; above 0 samples softmax(score / score_temperature).
    score_temperature: float = 0.0
    #: Another candidate takes the place of the first one only if its total score is higher by more
    #: than this; 0 asks for no margin. The total is the selector's, or, for select="teacher", the
    #: teacher's log-probability (nats).
    override_margin: float = 0.0
    #: How candidates share a step: one tree forward, one batch-expanded forward, or whichever the
    #: self-test allows.
    step: str = "auto"

    def __post_init__(self) -> None:
        for name in ("k", "support", "warmup_steps"):
            object.__setattr__(self, name, integer("S2TConfig", name, getattr(self, name)))
        for name in ("candidate_ratio", "score_temperature", "override_margin", "threshold"):
            value = getattr(self, name)
            if name != "threshold" or value is not None:
                object.__setattr__(self, name, number("S2TConfig", name, value))
        require(1 <= self.k <= 64, "S2TConfig", "k", "be in [1, 64]", repr(self.k))
        require(
            self.support == 0 or self.k <= self.support <= 64,
            "S2TConfig",
            "support",
            f"be 0 or in [k, 64] with k = {self.k}",
            repr(self.support),
        )
        require(
            0.0 <= self.candidate_ratio < 1.0,
            "S2TConfig",
            "candidate_ratio",
            "be in [0, 1)",
            repr(self.candidate_ratio),
        )
        for name, allowed in (
            ("trigger", tuple(TRIGGERS)),
            ("select", SELECT_MODES),
            ("proposer", PROPOSERS),
            ("step", STEP_MODES),
        ):
            value = getattr(self, name)
            require(
                value in allowed, "S2TConfig", name, f"be one of {', '.join(allowed)}", repr(value)
            )
        if self.threshold is not None:
            value = float(self.threshold)
            require(value == value, "S2TConfig", "threshold", "not be NaN", repr(value))
            low, high = TRIGGERS[self.trigger].range
            rule = f"be in [{low:g}, {high:g}] for trigger={self.trigger!r}"
            require(low <= value <= high, "S2TConfig", "threshold", rule, repr(value))
        require(
            self.warmup_steps >= 0,
            "S2TConfig",
            "warmup_steps",
            "be at least 0",
            repr(self.warmup_steps),
        )
        for name in ("score_temperature", "override_margin"):
            value = getattr(self, name)
            rule = "be at least 0 and finite"
            require(0.0 <= value < math.inf, "S2TConfig", name, rule, repr(value))
        require(
            self.select != "takeover" or self.override_margin == 0.0,
            "S2TConfig",
            "override_margin",
            "be 0 for select='takeover', where the teacher writes",
            repr(self.override_margin),
        )

    def to_dict(self) -> dict[str, Any]:
        """The options as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> S2TConfig:
        """Builds a configuration from a dictionary; unknown keys raise ValueError."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(options) - known)
        if unknown:
            raise ValueError(
                f"S2TConfig: options must be among {', '.join(sorted(known))}, got "
                f"{', '.join(unknown)}"
            )
        return cls(**options)

    def with_options(self, **options: Any) -> S2TConfig:
        """The configuration with other options.

        A threshold belongs to its trigger, and an override margin to what chooses: with another
        `trigger` the threshold, with another `select` the margin is the default, if none is given.
        """
        kept = self.to_dict()
        for name, belongs_to in (("threshold", "trigger"), ("override_margin", "select")):
            if options.get(belongs_to, kept[belongs_to]) != kept[belongs_to]:
                del kept[name]
        return self.from_dict({**kept, **options})

    def save_pretrained(self, folder: str | Path) -> Path:
        """Writes the options under "decoding" of `s2t_config.json` in `folder`, keeping its other
        entries.
        """
        path = Path(folder) / CONFIG_NAME
        content = read_json(path, "S2TConfig") if path.exists() else {}
        content["decoding"] = self.to_dict()
        write_atomically(path, json.dumps(content, indent=2) + "\n")
        return path

    @classmethod
    def from_pretrained(cls, path_or_repo: str | Path, **overrides: Any) -> S2TConfig:
        """Reads the options from a folder or a hub repository; `overrides` replace single
        options, as in `with_options`.
        """
        path = locate_file(path_or_repo, CONFIG_NAME)
        options = read_json(path, "S2TConfig").get("decoding", {})
        return cls.from_dict(options).with_options(**overrides)
