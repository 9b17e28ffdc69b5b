"""Selector: the score head that re-ranks a model's own candidates (paper, section 3.3;
S2T-LOCAL).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from s2t_ext import ops
from s2t_ext.hf.layer_trace import decoder_layer
from s2t_ext.ops.kernel_dtypes import floating
from s2t_ext.runs.checks import require
from s2t_ext.runs.numbers import finite, integer, positive
from s2t_ext.selectors import loading, storage
from s2t_ext.selectors.adapter import same_adapter
from s2t_ext.selectors.checks import check_base_model
from s2t_ext.selectors.parts import (
    Calibration,
    Projection,
    TriggerHead,
    bin_vector,
    projection_of,
    reserved,
    trigger_head_of,
)
from s2t_ext.selectors.reserved_tokens import head_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from s2t_ext.config import S2TConfig

MAX_BINS = 64


class Selector:
    """score(c) = sum_r bin_values_r softmax(rows . f(h(s_t + c)) + bias)_r, plus prior_weight *
    log p_SLM(c | s_t), with f the `projection` or, without one, the identity.

    Args:
        rows: Score rows, floating [R, D], or [R, W] with a projection, 1 <= R <= 64.
        bias: [R] or None.
        bin_values: Value of each bin, [R]; None is linspace(0, 1, R).
        reserved_ids: Vocabulary ids the rows were taken from; they are never proposed as
            candidates. Empty for an external head.
        bin_temperature: T_bin of the softmax over bins, above 0.
        prior_weight: Weight of the candidate's own log-probability; 0 is the paper.
        trigger_head: A `TriggerHead`, or (weight [D], bias) of one, or None.
        logit_scale: Factor on the row logits (models whose head scales its output).
        softcap: Soft cap on the row logits, or None.
        projection: A hidden layer of W units between the states and the rows, or None (the paper).
        layer: The decoder layer after which h is read, 1 the first; None is what the language-model
            head reads (the paper).
        base_model: What the selector was trained for: any of name, model_type, hidden_size,
            vocab_size, num_hidden_layers, fingerprint.
        calibrations: Trigger name -> Calibration.
        decoding: The S2TConfig it was saved with, or None.

    Raises:
        ValueError: if a shape or range is wrong; the message names the argument.
    """

    def __init__(
        self,
        rows: torch.Tensor,
        bias: torch.Tensor | None = None,
        bin_values: torch.Tensor | None = None,
        reserved_ids: Sequence[int] = (),
        bin_temperature: float = 1.0,
        prior_weight: float = 0.0,
        trigger_head: TriggerHead | tuple[torch.Tensor, float] | None = None,
        *,
        logit_scale: float = 1.0,
        softcap: float | None = None,
        projection: Projection | None = None,
        layer: int | None = None,
        base_model: Mapping[str, Any] | None = None,
        calibrations: Mapping[str, Calibration] | None = None,
        decoding: S2TConfig | None = None,
    ) -> None:
        if isinstance(rows, torch.Tensor) and not rows.is_floating_point():
            require(False, "Selector", "rows", "be floating [R, D]", _describe(rows))
        self.rows = floating("Selector", "rows", rows, rule="be floating [R, D]")
        require(
            self.rows.dim() == 2, "Selector", "rows", "be floating [R, D]", _describe(self.rows)
        )
        require(
            1 <= self.num_bins <= MAX_BINS,
            "Selector",
            "rows",
            f"have 1 to {MAX_BINS} bins",
            self.num_bins,
        )
        self.bias = None if bias is None else bin_vector("bias", bias, self.num_bins)
        self.bin_values = (
            torch.linspace(0, 1, self.num_bins, dtype=torch.float32)
            if bin_values is None
            else bin_vector("bin_values", bin_values, self.num_bins)
        )
        self.reserved_ids = reserved(reserved_ids)
        self.bin_temperature = positive("Selector", "bin_temperature", bin_temperature)
        self.prior_weight = finite("Selector", "prior_weight", prior_weight)
        self.logit_scale = finite("Selector", "logit_scale", logit_scale)
        self.softcap = None if softcap is None else positive("Selector", "softcap", softcap)
        self.projection = projection_of(projection, self.rows.shape[1])
        self.layer = None if layer is None else integer("Selector", "layer", layer)
        self.trigger_head = trigger_head_of(trigger_head, self.hidden_size)
        self.base_model = dict(base_model or {})
        self.calibrations = dict(calibrations or {})
        self.decoding = decoding
        #: The PeftModel whose adapter belongs to this selector, if it has one.
        self.adapted_model: nn.Module | None = None

    @property
    def num_bins(self) -> int:
        """R, the number of score rows."""
        return self.rows.shape[0]

    @property
    def hidden_size(self) -> int:
        """D, the width of the hidden states it scores."""
        return (self.rows if self.projection is None else self.projection.weight).shape[1]

    def __repr__(self) -> str:
        name = self.base_model.get("name", "any model")
        return (
            f"Selector(bins={self.num_bins}, hidden_size={self.hidden_size}, "
            f"prior_weight={self.prior_weight:g}, "
            f"reserved_ids={len(self.reserved_ids)}, for {name})"
        )

    def to(self, device: torch.device | str) -> Selector:
        """Moves the tensors to `device` and returns self."""
        self.rows = self.rows.to(device)
        self.bias = None if self.bias is None else self.bias.to(device)
        self.bin_values = self.bin_values.to(device)
        self.projection = None if self.projection is None else self.projection.to(device)
        if self.trigger_head is not None:
            self.trigger_head = self.trigger_head.to(device)
        return self

    def on(self, device: torch.device | str) -> Selector:
        """This selector if its tensors are on `device`, else a copy whose are."""
        return self if self.rows.device == torch.device(device) else copy.copy(self).to(device)

    def features(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the score rows read of hidden states [..., D]: fp32 [..., W], or the states."""
        return hidden if self.projection is None else self.projection(hidden)

    def score(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores of states, fp32 [N], from the hidden states of its layer, [N, D]; without the
        prior term.
        """
        return ops.score_candidates(
            self.features(hidden),
            self.rows,
            self.bias,
            self.bin_values,
            self.bin_temperature,
            self.logit_scale,
            self.softcap,
        )

    def trigger_probability(
        self, hidden: torch.Tensor, entropy: torch.Tensor, logprobs: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What the trigger head says, fp32 [N]; see `TriggerHead.probability`."""
        assert self.trigger_head is not None
        return self.trigger_head.probability(hidden, entropy, logprobs)

    def calibration_for(self, trigger: str) -> Calibration | None:
        """The stored calibration of a trigger, or None."""
        return self.calibrations.get(trigger)

    def check_fits(
        self, model: PreTrainedModel, where: str = "generate: selector", *, scores: bool = True
    ) -> None:
        """Raises ValueError if the selector was made for another model (width, vocabulary, layers,
        or weights), or, if it `scores` with it, another adapter; `where` begins the message.
        """
        function, name = where.split(": ")
        check_base_model(
            self.base_model,
            self.hidden_size,
            self.reserved_ids,
            model,
            reads_head=self.layer is None,
            where=function,
            name=name,
        )
        if self.layer is not None:
            decoder_layer(model, self.layer)
        adapted = self.adapted_model
        if scores and adapted is not None and not same_adapter(adapted, model):
            raise ValueError(
                f"{function}: model must hold the adapter of the {name}, active, got one without "
                "it (generate with the model the selector was loaded for, or load it for this one)"
            )

    @classmethod
    def from_reserved_rows(
        cls, model: nn.Module, reserved_ids: Sequence[int], **options: Any
    ) -> Selector:
        """Takes the score rows from the model's own head: rows `reserved_ids` of the (adapted)
        language-model head.
        """
        rows, bias, post = head_rows(model, reserved_ids)
        options.setdefault("logit_scale", post.scale)
        options.setdefault("softcap", post.softcap)
        return cls(rows, bias, reserved_ids=reserved_ids, **options)

    @classmethod
    def from_pretrained(
        cls, path_or_repo: str | Path, model: nn.Module | None = None, **options: Any
    ) -> Selector:
        """Loads a selector and attaches its adapter, if it has one.

        Args:
            path_or_repo: A folder, a hub repository, or the name of a selector that ships with the
                package (`s2t_ext/demo`).
            model: The student; needed for an adapter, else compared with the one it was made for.
            options: Arguments of `Selector` to replace.

        Raises:
            FileNotFoundError: if there is no selector.
            ValueError: if it is damaged, or made for another model.
        """
        selector: Selector = loading.load(cls, path_or_repo, model, options)
        return selector

    def save_pretrained(self, folder: str | Path) -> Path:
        """Writes s2t_config.json, s2t_head.safetensors and the adapter, if any; returns the
        folder.
        """
        return storage.write(self._stored(), self.adapted_model, folder)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Uploads the selector folder to the hub; keyword arguments go to `HfApi.create_repo`.
        Returns the repository URL.
        """
        return storage.push(self._stored(), self.adapted_model, repo_id, **kwargs)

    def _stored(self) -> storage.Stored:
        """What of it lies in a folder, as plain values."""
        tensors = {"rows": self.rows, "bin_values": self.bin_values}
        if self.bias is not None:
            tensors["bias"] = self.bias
        if self.projection is not None:
            tensors.update(self.projection.tensors())
        if self.trigger_head is not None:
            tensors["trigger_weight"] = self.trigger_head.weight
            if self.trigger_head.logprob_weights is not None:
                tensors["trigger_logprob_weights"] = self.trigger_head.logprob_weights
            scalars = ("trigger_bias", "bias"), ("trigger_entropy_weight", "entropy_weight")
            for name, attribute in scalars:
                value = getattr(self.trigger_head, attribute)
                tensors[name] = torch.tensor([value], dtype=torch.float32)
        options = {name: getattr(self, name) for name in storage.STORED_OPTIONS}
        return storage.Stored(
            tensors,
            {"num_bins": self.num_bins, **options},
            self.base_model,
            self.calibrations,
            self.decoding,
        )

    def merge(self) -> nn.Module:
        """Folds the adapter into the weights and returns the plain model; the score rows stay in
        the selector.

        Raises:
            ValueError: if the selector holds no adapter.
        """
        require(self.adapted_model is not None, "merge", "selector", "hold an adapter", "none")
        merged: nn.Module = self.adapted_model.merge_and_unload()  # type: ignore[union-attr, operator]
        self.adapted_model = None
        self.base_model.pop("fingerprint", None)
        return merged


def _describe(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"
