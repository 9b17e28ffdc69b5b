"""A model with an adapter that only chooses: a teacher that shares the student's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from s2t_ext.runs.shipped import shipped_folder
from s2t_ext.selectors.adapter import attach_adapter
from s2t_ext.teachers import Teacher


def adapter_teacher(path_or_repo: str | Path, model: nn.Module, tokenizer: Any = None) -> Teacher:
    """The model with a PEFT adapter as a teacher of itself.

    For `S2TConfig(select="teacher", proposer="base")`: the base model writes, the adapted one
    chooses among its candidates, and the weights are in memory once.

    Args:
        path_or_repo: Folder or hub repository of a PEFT adapter, such as `distill` with
            objective="tokens" leaves; or the name of one that ships with the package,
            "s2t_ext/qwen2.5-coder-0.5b-word-problems".
        model: A plain transformers model; its layers hold the adapter from here on, which
            `proposer="base"` takes off for the proposal.
        tokenizer: As for `Teacher.from_model`.

    Raises:
        FileNotFoundError: for a shipped name that there is not, or an adapter without weights.
        ValueError: if the adapter is another model's, or `model` has one already.
    """
    folder = shipped_folder(path_or_repo, "adapter_teacher") or path_or_repo
    return Teacher.from_model(attach_adapter(folder, model, "adapter_teacher"), tokenizer)
