"""When a step needs a choice: one class per trigger, each comparing one statistic with a threshold
(paper, section 3.2).

To add a trigger, write its class here, decorated with `register`: its name becomes a value of
`S2TConfig.trigger`, and its range, its rate and what it reads are taken from the class everywhere.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor


def _missing() -> Tensor:
    raise AssertionError("trigger: inputs must hold what the statistic reads, got nothing")


@dataclass(frozen=True)
class TriggerInputs:
    """What a statistic may read at one step. What costs something is a function, called only by the
    trigger that needs it.

    Attributes:
        logits: float32 [batch, k], the best candidates' logits, best first.
        support_entropy: float32 [batch], entropy of the support in nats.
        uniform: Returns a number in [0, 1) per row, keyed by the row's seed and position.
        head_probability: Returns what the selector's trigger head says of the state that proposed
            the candidates.
        divergence: Returns KL(student || teacher) on the support, in nats; asks the teacher.
    """

    logits: Tensor
    support_entropy: Tensor
    uniform: Callable[[], Tensor] = _missing
    head_probability: Callable[[], Tensor] = _missing
    divergence: Callable[[], Tensor] = _missing


@dataclass(frozen=True)
class Trigger(ABC):
    """A trigger with its threshold.

    Attributes:
        threshold: What the statistic is compared with; NaN for triggers without one.
        warmup_steps: Steps at the start of a generation in which nothing fires.
    """

    threshold: float = math.nan
    warmup_steps: int = 0

    #: The value of `S2TConfig.trigger`.
    name: ClassVar[str]
    #: Whether it fires where the statistic is below the threshold, instead of above.
    fires_below: ClassVar[bool] = False
    #: A threshold that no value of the statistic reaches; one beyond it neither.
    unreachable: ClassVar[float] = math.inf
    #: Lowest and highest threshold that mean something.
    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    #: Whether it has a threshold at all, and whether `calibrate` can find one on rollouts.
    has_threshold: ClassVar[bool] = True
    is_calibrated: ClassVar[bool] = False
    #: What it reads beside the candidates.
    reads_hidden_state: ClassVar[bool] = False
    reads_teacher: ClassVar[bool] = False
    reads_random_numbers: ClassVar[bool] = False

    @property
    def can_fire(self) -> bool:
        """False if no value of the statistic reaches the threshold: decoding is then the plain
        model's.
        """
        if self.fires_below:
            return self.threshold > self.unreachable
        return self.threshold < self.unreachable

    def is_active(self, step: int) -> bool:
        """Whether it may fire at this step (0 is the first generated token)."""
        return self.can_fire and step >= self.warmup_steps

    def statistic(self, inputs: TriggerInputs, step: int) -> Tensor:
        """The value compared with the threshold, float32 [batch]; zeros where a teacher would be
        asked in vain.
        """
        if self.reads_teacher and not self.is_active(step):
            return inputs.support_entropy.new_zeros(inputs.support_entropy.shape)
        return self._measure(inputs)

    @abstractmethod
    def _measure(self, inputs: TriggerInputs) -> Tensor:
        """The statistic."""

    def fires(self, statistic: Tensor, step: int) -> Tensor:
        """Bool [batch]: which rows need a choice at this step. NaN never fires."""
        if not self.is_active(step):
            return statistic.new_zeros(statistic.shape).bool()
        return statistic < self.threshold if self.fires_below else statistic > self.threshold


#: The class of every trigger, by name.
TRIGGERS: dict[str, type[Trigger]] = {}


def register(trigger: type[Trigger]) -> type[Trigger]:
    """Makes a trigger known under its name."""
    TRIGGERS[trigger.name] = trigger
    return trigger


@register
class EntropyTrigger(Trigger):
    """Entropy of the student's renormalised support, in nats (paper, section 3.2)."""

    name = "entropy"
    is_calibrated = True

    def _measure(self, inputs: TriggerInputs) -> Tensor:
        return inputs.support_entropy


@register
class MarginTrigger(Trigger):
    """Logit of the best candidate minus that of the second; infinite with one candidate."""

    name = "margin"
    fires_below = True
    unreachable = -math.inf
    is_calibrated = True

    def _measure(self, inputs: TriggerInputs) -> Tensor:
        logits = inputs.logits
        if logits.shape[1] < 2:
            return logits.new_full(logits.shape[:1], math.inf)
        return logits[:, 0] - logits[:, 1]


@register
class HeadTrigger(Trigger):
    """Probability that the selector's trigger head gives to a correction (paper, appendix)."""

    name = "head"
    unreachable = 1.0
    range = (0.0, 1.0)
    is_calibrated = True
    reads_hidden_state = True

    def _measure(self, inputs: TriggerInputs) -> Tensor:
        return inputs.head_probability()


@register
class DivergenceTrigger(Trigger):
    """KL(student || teacher) on the student's support, in nats (paper, section 3.1)."""

    name = "kl"
    reads_teacher = True

    def _measure(self, inputs: TriggerInputs) -> Tensor:
        return inputs.divergence()


@register
class RandomTrigger(Trigger):
    """A uniform number of the row's seed and position: `threshold` is the share of the steps."""

    name = "random"
    fires_below = True
    unreachable = 0.0
    range = (0.0, 1.0)
    reads_random_numbers = True

    def _measure(self, inputs: TriggerInputs) -> Tensor:
        return inputs.uniform()


class _Constant(Trigger):
    has_threshold = False

    def _measure(self, inputs: TriggerInputs) -> Tensor:
        return inputs.support_entropy.new_zeros(inputs.support_entropy.shape)


@register
class AlwaysTrigger(_Constant):
    """Every step after the warm-up."""

    name = "always"

    @property
    def can_fire(self) -> bool:
        """It has no threshold to reach."""
        return True

    def fires(self, statistic: Tensor, step: int) -> Tensor:
        """Every row, after the warm-up."""
        return statistic.new_full(statistic.shape, float(self.is_active(step))).bool()


@register
class NeverTrigger(_Constant):
    """No step: plain decoding."""

    name = "never"
