"""Which model is this? Name, sizes, vocabulary, a fingerprint of its weights."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import torch
from torch import nn

from s2t_ext.hf.unwrapping import unwrap_model


def describe_base_model(model: nn.Module) -> dict[str, Any]:
    """What identifies a base model: name, type, sizes, and a fingerprint of its embedding (64 rows,
    rounded to bf16).
    """
    plain = unwrap_model(model)
    config = plain.config.get_text_config(decoder=True)
    embedding = plain.get_input_embeddings()
    weight = getattr(embedding, "original_module", embedding).weight  # not an adapter's copy
    rows = torch.linspace(0, weight.shape[0] - 1, 64, device=weight.device).long()
    sample = weight.detach()[rows].to(torch.bfloat16).cpu().contiguous().view(torch.uint8)
    name = config.name_or_path or plain.config.name_or_path
    return {
        # A folder's own name: where it lies on this machine says nothing on another.
        "name": os.path.basename(os.path.normpath(name)) if os.path.isdir(name) else name,
        "model_type": config.model_type,
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.num_hidden_layers,
        "fingerprint": hashlib.sha256(sample.numpy().tobytes()).hexdigest()[:16],
    }


def check_vocabulary_sizes(student: Any, teacher: Any) -> None:
    """Raises ValueError if the embeddings differ by more than padding can explain (1,024 rows)."""
    sizes = vocabulary_size(student), vocabulary_size(teacher)
    if abs(sizes[0] - sizes[1]) > 1024:
        raise ValueError(
            f"generate: teacher must have the student's vocabulary ({sizes[0]} rows), got "
            f"{sizes[1]} rows"
        )


def check_same_tokenizer(student: Any, teacher: Any) -> None:
    """Raises ValueError if two tokenizers give different meanings to an id both know.

    Entries that only pad a vocabulary (added by one side only) do not matter.
    """
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    by_id = {index: text for text, index in theirs.items()}
    for text, index in ours.items():
        other = by_id.get(index)
        if other is not None and other != text:
            raise ValueError(
                f"generate: teacher must have the student's tokenizer, got {other!r} for id "
                f"{index} "
                f"where the student has {text!r}"
            )
    shared = len(set(ours.items()) & set(theirs.items()))
    if shared < 0.99 * min(len(ours), len(theirs)):
        raise ValueError(
            f"generate: teacher must have the student's tokenizer, got {shared} shared entries of "
            f"{len(ours)}"
        )


def vocabulary_size(model: Any) -> int:
    """Rows of a model's output embedding."""
    rows: int = unwrap_model(model).get_output_embeddings().weight.shape[0]
    return rows
