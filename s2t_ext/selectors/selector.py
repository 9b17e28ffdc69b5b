"""Selector: the score head that re-ranks a model's own candidates (paper, section 3.3;
S2T-LOCAL).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from s2t_ext import ops
from s2t_ext.hf.identity import describe_base_model, vocabulary_size
from s2t_ext.runs.files import locate_file
from s2t_ext.runs.shipped import shipped_folder
from s2t_ext.selectors import storage
from s2t_ext.selectors.adapter import attach_adapter, left_whole, same_adapter
from s2t_ext.selectors.parts import Calibration, TriggerHead
from s2t_ext.selectors.reserved_tokens import check_ids, head_rows, resolve_reserved_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from s2t_ext.config import S2TConfig

MAX_BINS = 64


class Selector:
    """score(c) = sum_r bin_values_r softmax(rows . h(s_t + c) + bias)_r, plus prior_weight * log
    p_SLM(c | s_t).

    Args:
        rows: Score rows, floating [R, D], 1 <= R <= 64.
        bias: [R] or None.
        bin_values: Value of each bin, [R]; None is linspace(0, 1, R).
        reserved_ids: Vocabulary ids the rows were taken from; they are never proposed as
            candidates. Empty for an external head.
        bin_temperature: T_bin of the softmax over bins, above 0.
        prior_weight: Weight of the candidate's own log-probability; 0 is the paper.
        trigger_head: (weight [D], bias) of a learned trigger, or None.
        logit_scale: Factor on the row logits (models whose head scales its output).
        softcap: Soft cap on the row logits, or None.
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
        base_model: Mapping[str, Any] | None = None,
        calibrations: Mapping[str, Calibration] | None = None,
        decoding: S2TConfig | None = None,
    ) -> None:
        _require(
            rows.dim() == 2 and rows.is_floating_point(),
            "rows",
            "be floating [R, D]",
            _describe(rows),
        )
        bins, hidden_size = rows.shape
        _require(1 <= bins <= MAX_BINS, "rows", f"have 1 to {MAX_BINS} bins", bins)
        for name, vector in (("bias", bias), ("bin_values", bin_values)):
            if vector is not None:
                _require(
                    tuple(vector.shape) == (bins,), name, f"have shape [{bins}]", list(vector.shape)
                )
        _require(bin_temperature > 0, "bin_temperature", "be above 0", bin_temperature)
        for name, tensor in (("rows", rows), ("bias", bias), ("bin_values", bin_values)):
            if tensor is not None:
                _require(bool(tensor.isfinite().all()), name, "be finite", "NaN or infinities")
        _require(math.isfinite(prior_weight), "prior_weight", "be finite", prior_weight)
        _require(len(reserved_ids) <= 64, "reserved_ids", "hold at most 64 ids", len(reserved_ids))
        _require(
            all(int(i) >= 0 for i in reserved_ids), "reserved_ids", "be at least 0", reserved_ids
        )
        if isinstance(trigger_head, tuple):
            trigger_head = TriggerHead(trigger_head[0].float().reshape(-1), float(trigger_head[1]))
        if trigger_head is not None:
            size = trigger_head.weight.numel()
            _require(size == hidden_size, "trigger_head", f"have {hidden_size} weights", size)
        self.rows = rows.detach()
        self.bias = None if bias is None else bias.detach().float()
        self.bin_values = (
            torch.linspace(0, 1, bins) if bin_values is None else bin_values.detach().float()
        )
        self.reserved_ids = tuple(sorted({int(i) for i in reserved_ids}))
        self.bin_temperature = float(bin_temperature)
        self.prior_weight = float(prior_weight)
        self.trigger_head = trigger_head
        self.logit_scale = float(logit_scale)
        self.softcap = softcap
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
        return self.rows.shape[1]

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
        if self.trigger_head is not None:
            self.trigger_head = TriggerHead(
                self.trigger_head.weight.to(device), self.trigger_head.bias
            )
        return self

    def score(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores of states, fp32 [N], from the hidden states the language-model head reads, [N, D];
        without the prior term.
        """
        return ops.score_candidates(
            hidden,
            self.rows,
            self.bias,
            self.bin_values,
            self.bin_temperature,
            self.logit_scale,
            self.softcap,
        )

    def trigger_probability(self, hidden: torch.Tensor) -> torch.Tensor:
        """sigmoid(weight . hidden + bias), fp32 [N], for hidden states [N, D]."""
        assert self.trigger_head is not None
        return torch.sigmoid(hidden.float() @ self.trigger_head.weight + self.trigger_head.bias)

    def calibration_for(self, trigger: str) -> Calibration | None:
        """The stored calibration of a trigger, or None."""
        return self.calibrations.get(trigger)

    def check_fits(
        self, model: PreTrainedModel, *, where: str = "generate", name: str = "selector"
    ) -> None:
        """Raises ValueError if the selector was made for another model (width, vocabulary, layers,
        or weights); `where` and `name` are the function and its argument in the message.
        """
        config = model.config.get_text_config(decoder=True)
        _require(
            config.hidden_size == self.hidden_size,
            name,
            f"have rows of the model's hidden size {config.hidden_size}",
            self.hidden_size,
            where=where,
        )
        vocab = vocabulary_size(model)
        if self.reserved_ids:
            _require(
                self.reserved_ids[-1] < vocab,
                name,
                f"reserve ids below the vocabulary size {vocab}",
                self.reserved_ids[-1],
                where=where,
            )
        actual = describe_base_model(model)
        for key in ("model_type", "vocab_size", "num_hidden_layers", "fingerprint"):
            expected = self.base_model.get(key)
            if expected is not None and actual.get(key) is not None:
                _require(
                    actual[key] == expected,
                    name,
                    f"belong to the model ({key} {actual[key]})",
                    f"a selector for {self.base_model.get('name', 'another model')} ({key} "
                    f"{expected})",
                    where=where,
                )

        if self.adapted_model is not None and not same_adapter(self.adapted_model, model):
            raise ValueError(
                f"{where}: model must hold the adapter of the {name}, active, got one without it "
                "(generate with the model the selector was loaded for, or load it for this one)"
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
        return _load(cls, path_or_repo, model, options)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Writes s2t_config.json, s2t_head.safetensors and the adapter, if any; returns the
        folder.
        """
        return storage.write(self.stored(), self.adapted_model, folder)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Uploads the selector folder to the hub; keyword arguments go to `HfApi.create_repo`.
        Returns the repository URL.
        """
        return storage.push(self.stored(), self.adapted_model, repo_id, **kwargs)

    def stored(self) -> storage.Stored:
        """What of it lies in a folder, as plain values."""
        tensors = {"rows": self.rows, "bin_values": self.bin_values}
        if self.bias is not None:
            tensors["bias"] = self.bias
        if self.trigger_head is not None:
            tensors["trigger_weight"] = self.trigger_head.weight
            tensors["trigger_bias"] = torch.tensor([self.trigger_head.bias])
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
        _require(
            self.adapted_model is not None, "selector", "hold an adapter", "none", where="merge"
        )
        merged: nn.Module = self.adapted_model.merge_and_unload()  # type: ignore[union-attr, operator]
        self.adapted_model = None
        self.base_model.pop("fingerprint", None)
        return merged


def _load(
    cls: type[Selector], path_or_repo: str | Path, model: nn.Module | None, options: dict[str, Any]
) -> Selector:
    path_or_repo = shipped_folder(path_or_repo) or path_or_repo
    kind = storage.kind_of(path_or_repo)
    if kind == "adapter":
        return import_research_adapter(path_or_repo, model, **options)
    arguments, has_adapter = storage.read(path_or_repo, kind)
    selector = cls(**{**arguments, **options})
    if has_adapter:
        plain = storage.need_model(model, path_or_repo)
        selector.check_fits(plain)
        selector.adapted_model = attach_adapter(path_or_repo, plain, locate_file)
    elif model is not None:
        selector.check_fits(model)
    return selector


def import_research_adapter(
    path_or_repo: str | Path,
    model: nn.Module | None,
    *,
    reserved_ids: Sequence[int] | None = None,
    **options: Any,
) -> Selector:
    """Reads a PEFT adapter whose lm_head was trained in place, as the released research code writes
    it."""
    plain = storage.need_model(model, path_or_repo)
    base = describe_base_model(plain)
    if reserved_ids is None:
        reserved_ids = resolve_reserved_ids(plain, path_or_repo)
    check_ids(plain, reserved_ids)  # before the model is touched
    with left_whole(plain):
        adapted = attach_adapter(path_or_repo, plain, locate_file)
        selector = Selector.from_reserved_rows(adapted, reserved_ids, base_model=base, **options)
    selector.adapted_model = adapted
    return selector


def load_selector(
    path_or_repo: str | Path, model: nn.Module | None = None, **options: Any
) -> Selector:
    """See `Selector.from_pretrained`."""
    return _load(Selector, path_or_repo, model, options)


def save_selector(selector: Selector, folder: str | Path) -> Path:
    """See `Selector.save_pretrained`."""
    return selector.save_pretrained(folder)


def push_selector(selector: Selector, repo_id: str, **create_options: Any) -> str:
    """See `Selector.push_to_hub`."""
    return selector.push_to_hub(repo_id, **create_options)


def _describe(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


def _require(condition: bool, name: str, rule: str, value: Any, where: str = "Selector") -> None:
    if not condition:
        raise ValueError(f"{where}: {name} must {rule}, got {value}")
