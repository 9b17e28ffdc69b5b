"""Reserved vocabulary rows: which rows of a head may carry scores, and how to read them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from s2t_ext.hf.identity import head_width, vocabulary_size
from s2t_ext.hf.logits_head import PostProcessing, find_logits_head
from s2t_ext.hf.model_state import input_device
from s2t_ext.hf.unwrapping import unwrap_model

#: Names vocabularies give to entries nobody uses.
_UNUSED_NAME = re.compile(
    r"\[PAD\d+\]|<\|?reserved_special_token_\d+\|?>|<unused\d+>|<\|extra_\d+\|>"
    r"|<\|placeholder\d+\|>|\[control_\d+\]"
)
_PROBE_ROWS = 64


def find_unused_ids(tokenizer: Any, num_rows: int) -> list[int]:
    """Ids of a head with `num_rows` rows that the tokenizer cannot produce, ascending.

    These are the rows beyond the tokenizer's vocabulary, and entries named as unused
    (`[PAD151700]`, `<|reserved_special_token_7|>`, ...) that are no special token in use and do not
    occur in the chat template.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    used = set(vocabulary.values())
    special = set(getattr(tokenizer, "all_special_ids", ()))
    template = str(getattr(tokenizer, "chat_template", "") or "")
    unused = {i for i in range(num_rows) if i not in used}
    for text, token in vocabulary.items():
        if token < num_rows and token not in special and _UNUSED_NAME.fullmatch(text):
            if text not in template:
                unused.add(token)
    return sorted(unused)


def resolve_reserved_ids(
    model: nn.Module, path_or_repo: str | Path, num_bins: int = 16
) -> tuple[int, ...]:
    """The `num_bins` first unused ids, from the tokenizer saved beside an adapter (or beside its
    model).

    Raises:
        ValueError: if no tokenizer is found or it leaves too few rows unused; pass `reserved_ids`
            then.
    """
    from transformers import AutoTokenizer

    plain = unwrap_model(model)
    tokenizer = None
    for source in (path_or_repo, plain.config.name_or_path):
        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
            break
        except (OSError, ValueError):
            continue
    if tokenizer is None:
        raise ValueError(
            f"load_selector: reserved_ids must be given where no tokenizer is found, got None "
            f"({path_or_repo})"
        )
    rows = vocabulary_size(plain)
    unused = find_unused_ids(tokenizer, rows)
    if len(unused) < num_bins:
        raise ValueError(
            "load_selector: reserved_ids must be given where the vocabulary leaves fewer than "
            f"{num_bins} rows unused, got None and {len(unused)} unused rows"
        )
    return tuple(unused[:num_bins])


def check_ids(model: nn.Module, ids: Sequence[int]) -> None:
    """Raises ValueError unless all ids are rows of the model's head."""
    rows = vocabulary_size(model)
    outside = [i for i in ids if not 0 <= i < rows]
    if outside or not ids:
        raise ValueError(
            f"load_selector: reserved_ids must be one or more rows of the head, in [0, {rows}), "
            f"got {outside or 'none'}"
        )


@torch.no_grad()
def head_rows(
    model: nn.Module, ids: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor | None, PostProcessing]:
    """Rows [R, D], bias [R] or None, and post-processing of the model's head, as its forward uses
    them.

    The weights are read where the head is a plain linear layer (or PEFT's trained copy of one), and
    checked against the head's own output; any other head is probed with unit vectors.
    """
    check_ids(model, ids)
    plain = unwrap_model(model)
    found = find_logits_head(plain)
    head, post = found.module, found.post
    if head is None:
        raise ValueError(
            "load_selector: model must have a language-model head that is a module of its own, got "
            f"{type(plain).__name__}"
        )
    index = torch.tensor(list(ids), device=input_device(plain))
    linear = _active_linear(head)
    if linear is not None:
        rows = linear.weight[index].detach().clone()
        bias = None if linear.bias is None else linear.bias[index].detach().clone()
        own = torch.Generator().manual_seed(0)  # reading rows must not move the caller's
        sample = torch.randn(4, rows.shape[1], generator=own).to(rows)
        expected = head(sample)[:, index].float()
        actual = sample.float() @ rows.float().T + (0 if bias is None else bias.float())
        tolerance = 1e-4 if rows.dtype == torch.float32 else 2e-2
        if (actual - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1e-6):
            return rows, bias, post
    return (*_probe_rows(plain, head, index), post)


def _active_linear(head: nn.Module) -> nn.Linear | None:
    """The linear layer whose weights the head uses now, if there is exactly one."""
    if isinstance(head, nn.Linear):
        plain = head.weight.is_floating_point() and head.weight.device.type != "meta"
        return head if plain and head.weight.shape[0] == head.out_features else None
    copies = getattr(head, "modules_to_save", None)
    active = getattr(head, "active_adapter", None)
    if copies is not None and active is not None and not getattr(head, "disable_adapters", False):
        name = active if isinstance(active, str) else active[0]
        if name in copies and isinstance(copies[name], nn.Linear):
            linear: nn.Linear = copies[name]
            return linear
    return None


def _probe_rows(
    model: Any, head: nn.Module, index: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """head(I)[:, ids] - head(0)[ids], a block of unit vectors at a time."""
    size = head_width(model)
    bias = head(torch.zeros(1, size, dtype=model.dtype, device=index.device))[0, index].float()
    columns = []
    for start in range(0, size, _PROBE_ROWS):
        block = torch.zeros(min(_PROBE_ROWS, size - start), size, device=index.device)
        block[:, start : start + block.shape[0]].fill_diagonal_(1.0)
        columns.append(head(block.to(model.dtype))[:, index].float() - bias)
    rows = torch.cat(columns).T.contiguous()
    return rows, bias if bool(bias.any()) else None
