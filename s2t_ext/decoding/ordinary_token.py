"""The token an untriggered row takes: argmax, or a draw after transformers' sampling warpers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitNormalization,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    SynthIDTextWatermarkLogitsProcessor,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
    WatermarkLogitsProcessor,
)

from s2t_ext import ops
from s2t_ext.ops.kernel_dtypes import for_kernels

#: Warpers `sample_token` does itself, in the order transformers applies them.
_FUSED = (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    MinPLogitsWarper,
)
#: Everything `generate` appends after the user's own processors when it samples; candidates are
#: proposed before these.
_WARPERS = (
    *_FUSED,
    TopHLogitsWarper,
    TypicalLogitsWarper,
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    WatermarkLogitsProcessor,
    SynthIDTextWatermarkLogitsProcessor,
    LogitNormalization,
)


#: A `top_k` from which on nothing is cut off, and which 64 bits hold.
_EVERY_TOKEN = 2**62


@dataclass(frozen=True)
class SamplingParameters:
    """Arguments of `sample_token`; the defaults draw from the softmax of the logits as they are."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


class OrdinaryToken:
    """Splits `generate`'s processor list into what shapes the proposal and what only shapes
    sampling.

    Args:
        logits_processor: As `generate` has made it.
        do_sample: Whether tokens are drawn.
        blocked_ids: int64 [n], never drawn; None for none. Warpers do not see them either: what is
            left of the others' probability would be cut off for their sake.

    Attributes:
        processors: Applied before candidates are proposed (penalties, bans, forced tokens, the
            user's own).
        warpers: The tail of the list that only sampling sees.
        fused: Parameters if `sample_token` can do all warpers itself, else None.
    """

    def __init__(
        self,
        logits_processor: LogitsProcessorList,
        do_sample: bool,
        blocked_ids: torch.Tensor | None = None,
    ) -> None:
        processors = list(logits_processor)
        split = len(processors)
        while do_sample and split and isinstance(processors[split - 1], _WARPERS):
            split -= 1
        self.do_sample = do_sample
        self.blocked_ids = blocked_ids
        self.processors = LogitsProcessorList(processors[:split])
        self.warpers = LogitsProcessorList(processors[split:])
        self.fused = _fuse(processors[split:])
        self._warped: tuple[torch.Tensor, torch.Tensor] | None = None

    def process(self, input_ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Logits [batch, V] after the processors, which may be the caller's own.

        Raises:
            ValueError: if they return something else than scores for every row.
        """
        return _checked(self.processors(input_ids, logits), logits)

    def scores(self, input_ids: torch.Tensor, processed: torch.Tensor) -> torch.Tensor:
        """What transformers records under `scores`: the processed logits after the warpers, fp32
        [batch, V]; of tokens that are never drawn, -inf. The warpers run once per step, since some
        keep a state.
        """
        blocked = self.blocked_ids if self.do_sample else None
        if not self.warpers and blocked is None:
            return processed
        if self._warped is None or self._warped[0] is not processed:
            logits = processed.clone()
            if blocked is not None:
                logits.index_fill_(1, blocked, -torch.inf)
            self._warped = processed, _checked(self.warpers(input_ids, logits), processed)
        return self._warped[1]

    def choose(
        self,
        processed: torch.Tensor,
        argmax: torch.Tensor,
        input_ids: torch.Tensor,
        *,
        seed: torch.Tensor,
        position: torch.Tensor,
    ) -> torch.Tensor:
        """The ordinary next token of every row.

        Args:
            processed: Processed logits [batch, V].
            argmax: Their first candidate, int64 [batch].
            input_ids: int64 [batch, T].
            seed: int64 [batch], with `position` the key of the random numbers.
            position: int64 [batch].

        Returns:
            int64 [batch]; -1 for a row without a single valid logit.
        """
        if not self.do_sample:
            return argmax
        parameters = self.fused
        if parameters is None:
            processed, parameters = self.scores(input_ids, processed), SamplingParameters()
        batch, device = processed.shape[0], processed.device

        def rule(value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.full((batch,), value, dtype=dtype, device=device)

        return ops.sample_token(
            processed,
            temperature=rule(parameters.temperature),
            top_k=rule(parameters.top_k, torch.int64),
            top_p=rule(parameters.top_p),
            min_p=rule(parameters.min_p),
            seed=seed,
            position=position,
            blocked_ids=self.blocked_ids,
        ).token


def _checked(scores: Any, logits: torch.Tensor) -> torch.Tensor:
    """What a processor returned for `logits`, in a dtype the kernels read."""
    if not isinstance(scores, torch.Tensor) or scores.shape[:-1] != logits.shape[:-1]:
        kind = list(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise ValueError(
            "generate: logits_processor must return scores [batch, vocabulary] = "
            f"{list(logits.shape)}, got {kind}"
        )
    return for_kernels(scores)


def _fuse(warpers: list[LogitsProcessor]) -> SamplingParameters | None:
    """Parameters of `sample_token` equal to the warpers, or None if one is foreign, repeated, or
    out of order.
    """
    kinds = [type(warper) for warper in warpers]
    if any(kind not in _FUSED for kind in kinds) or kinds != sorted(set(kinds), key=_FUSED.index):
        return None
    if any(getattr(warper, "filter_value", float("-inf")) != float("-inf") for warper in warpers):
        return None
    if any(getattr(warper, "min_tokens_to_keep", 1) != 1 for warper in warpers):
        return None
    found = {kind: warper for kind, warper in zip(kinds, warpers, strict=True)}

    def value(kind: type, name: str, default: float) -> float:
        return getattr(found[kind], name) if kind in found else default

    temperature, top_k, top_p, min_p = _FUSED
    return SamplingParameters(
        temperature=float(value(temperature, "temperature", 1.0)),
        top_k=min(int(value(top_k, "top_k", 0)), _EVERY_TOKEN),
        top_p=float(value(top_p, "top_p", 1.0)),
        min_p=float(value(min_p, "min_p", 0.0)),
    )
