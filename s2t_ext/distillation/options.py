"""DistillConfig: every option of a training run, validated once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from s2t_ext.distillation.losses import LossConfig
from s2t_ext.runs.checks import require
from s2t_ext.runs.number_arguments import normalise_number_fields

METHODS = ("lora", "rows", "full")
OBJECTIVES = ("selector", "tokens")
PRIORS = ("trained", "fitted", "none")


@dataclass(frozen=True)
class DistillConfig:
    """Options of `distill`; the defaults are the paper's where it names one, except `prior`.

    Raises:
        ValueError: if an option lies outside its range.
    """

    #: lora: an adapter and the score rows; rows: the score rows on a frozen backbone, whose hidden
    #: states are computed once; full: all weights and the score rows.
    method: str = "lora"
    #: "selector" trains by all terms of the loss; "tokens" by those over tokens alone, which gives
    #: an adapter (or weights) without a selector: on-policy distillation, or fine-tuning.
    objective: str = "selector"
    loss: LossConfig = field(default_factory=LossConfig)
    epochs: int = 3
    #: Trajectories per forward pass, of similar length.
    batch_size: int = 4
    #: Forward passes per optimiser step.
    accumulation: int = 1
    learning_rate: float = 5e-5
    #: Of the score rows, the prior weight and the trigger head.
    head_learning_rate: float = 1e-3
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    #: Share of the steps over which the learning rate rises; it then falls linearly to 0.
    warmup: float = 0.03
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    #: Names of the modules that get an adapter, as PEFT matches them; empty: all linear layers but
    #: the language-model head.
    lora_targets: tuple[str, ...] = ()
    bins: int = 16
    #: Units of a hidden layer between the states and the score rows, W; 0: the rows read the states
    #: (the paper).
    head_width: int = 0
    #: The decoder layer whose states are scored, 1 the first; None: what the language-model head
    #: reads (the paper).
    head_layer: int | None = None
    #: Dropout before and after the hidden layer.
    head_dropout: float = 0.2
    bin_temperature: float = 1.0
    #: Weight of the candidate's own log-probability. trained: with the scores; fitted: the scores
    #: are trained without it (they learn more where the student is mostly right) and it is chosen
    #: afterwards; none: 0, the paper.
    prior: str = "trained"
    #: Share of the steps that the trigger head should learn to find (those of highest KL).
    trigger_share: float = 0.1
    #: Candidates at decoding: agreement is reported among the first k of each group.
    k: int = 8
    #: Optimiser steps between checkpoints; one is also written after every epoch.
    checkpoint_every: int = 50
    gradient_checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        normalise_number_fields(self)

        def check(name: str, condition: bool, rule: str) -> None:
            require(condition, "DistillConfig", name, rule, repr(getattr(self, name)))

        check("method", self.method in METHODS, f"be one of {', '.join(METHODS)}")
        check("objective", self.objective in OBJECTIVES, f"be one of {', '.join(OBJECTIVES)}")
        only_tokens, responses = self.objective == "tokens", self.loss.trains_responses
        trained = self.method != "rows" or not (only_tokens or responses)
        check("method", trained, "be lora or full where tokens are trained")
        rule = "have teacher_kl_weight or sft_weight above 0 for objective='tokens'"
        check("loss", responses or not only_tokens, rule)
        check("prior", self.prior in PRIORS, f"be one of {', '.join(PRIORS)}")
        for name in (
            "epochs",
            "batch_size",
            "accumulation",
            "checkpoint_every",
            "lora_r",
            "lora_alpha",
        ):
            check(name, getattr(self, name) >= 1, "be at least 1")
        for name in ("learning_rate", "head_learning_rate", "grad_clip", "bin_temperature"):
            check(name, getattr(self, name) > 0, "be above 0")
        check("warmup", 0 <= self.warmup < 1, "be in [0, 1)")
        for name in ("lora_dropout", "head_dropout"):
            check(name, 0 <= getattr(self, name) < 1, "be in [0, 1)")
        check("head_width", self.head_width >= 0, "be at least 0")
        check("head_layer", self.head_layer is None or self.head_layer >= 1, "be at least 1")
        check("trigger_share", 0 < self.trigger_share < 1, "be in (0, 1)")
        check("bins", 2 <= self.bins <= 64, "be in [2, 64]")
        check("k", 1 <= self.k <= 64, "be in [1, 64]")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> DistillConfig:
        """The inverse of `to_dict`."""
        loss = options.get("loss", {})
        loss = loss if isinstance(loss, LossConfig) else LossConfig(**loss)
        targets = tuple(options.get("lora_targets", ()))
        return cls(**{**options, "loss": loss, "lora_targets": targets})
