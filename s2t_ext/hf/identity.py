"""Which model is this? Name, sizes, vocabulary, a fingerprint of its weights."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import nn

from s2t_ext.hf.logits_head import input_embedding, output_head
from s2t_ext.hf.unwrapping import unwrap_model

#: Where a model keeps its fingerprint.
_FINGERPRINT = "_s2t_fingerprint"


def describe_base_model(model: nn.Module) -> dict[str, Any]:
    """What identifies a base model: name, type, sizes, and a fingerprint of its embedding (64 rows,
    rounded to bf16; None where they are not stored as plain numbers).
    """
    plain = unwrap_model(model)
    config = plain.config.get_text_config(decoder=True)
    name = config.name_or_path or plain.config.name_or_path
    return {
        # A folder's own name: where it lies on this machine says nothing on another.
        "name": os.path.basename(os.path.normpath(name)) if os.path.isdir(name) else name,
        "model_type": config.model_type,
        "hidden_size": getattr(config, "hidden_size", None),
        "vocab_size": getattr(config, "vocab_size", None),
        "num_hidden_layers": getattr(config, "num_hidden_layers", None),
        "fingerprint": _fingerprint(plain),
    }


def describe_model(model: nn.Module) -> dict[str, Any]:
    """`describe_base_model`, and "weights": a digest of 16 numbers of each weight, in bf16.
    Two fine-tunes of one base differ in it, which in their embeddings they need not. None where a
    weight is not stored as plain numbers, or not here.
    """
    return {**describe_base_model(model), "weights": _weights_digest(unwrap_model(model))}


def _weights_digest(plain: nn.Module) -> str | None:
    digest = hashlib.sha256()
    for weight in plain.parameters():
        if not _is_plain(weight):
            return None
        places = torch.arange(16, device=weight.device) * max(weight.numel() - 1, 0) // 15
        sample = weight.detach().reshape(-1)[places[: weight.numel()]]
        digest.update(sample.to(torch.bfloat16).cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def check_vocabulary_sizes(student: Any, teacher: Any) -> None:
    """Raises ValueError if the embeddings differ by more than padding can explain (1,024 rows)."""
    sizes = vocabulary_size(student), vocabulary_size(teacher)
    if abs(sizes[0] - sizes[1]) > 1024:
        raise ValueError(
            f"generate: teacher must have the student's vocabulary ({sizes[0]} rows), got "
            f"{sizes[1]} rows"
        )


def check_same_tokenizer(student: Any, teacher: Any, function: str = "generate") -> None:
    """Raises ValueError if two tokenizers give different meanings to an id both know.

    Entries that only pad a vocabulary (added by one side only) do not matter.

    Args:
        student: The student's tokenizer.
        teacher: The teacher's.
        function: Named in the message.
    """
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    by_id = {index: text for text, index in theirs.items()}
    for text, index in ours.items():
        other = by_id.get(index)
        if other is not None and other != text:
            raise ValueError(
                f"{function}: teacher must have the student's tokenizer, got {other!r} for id "
                f"{index} where the student has {text!r}"
            )
    shared = len(set(ours.items()) & set(theirs.items()))
    if shared < 0.99 * min(len(ours), len(theirs)):
        raise ValueError(
            f"{function}: teacher must have the student's tokenizer, got {shared} shared entries "
            f"of {len(ours)}"
        )


def tokenizer_hash(tokenizer: Any) -> str:
    """Hash of a tokenizer's entries and their ids."""
    entries = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(entries.encode()).hexdigest()


def vocabulary_size(model: Any) -> int:
    """Columns of a model's logits. Asked of the head, whose weight may be packed, or of the
    configuration.
    """
    plain = unwrap_model(model)
    head = output_head(plain)
    size = getattr(head, "out_features", None)
    if isinstance(size, int):
        return size
    weight = getattr(head, "weight", None)
    if isinstance(weight, torch.Tensor) and weight.dim() == 2 and weight.is_floating_point():
        return weight.shape[0]
    size = plain.config.get_text_config(decoder=True).vocab_size
    return int(size)


def head_width(model: Any) -> int:
    """Width of the states that a model's head reads; some project theirs before it (OPT 350M)."""
    plain = unwrap_model(model)
    width = getattr(output_head(plain), "in_features", None)
    return (
        width if isinstance(width, int) else plain.config.get_text_config(decoder=True).hidden_size
    )


def position_limit(model: Any) -> int | None:
    """Positions a model keeps a row for; None where it computes them, as rotary ones do."""
    plain = unwrap_model(model)
    size = getattr(plain.config.get_text_config(decoder=True), "max_position_embeddings", None)
    modules, buffers = plain.named_modules(), plain.named_buffers()
    tables = [(n, m.num_embeddings) for n, m in modules if isinstance(m, nn.Embedding)]
    tables += [(n, b.shape[0]) for n, b in buffers if b.dim() == 2]  # GPT-J's
    for name, rows in tables:
        own = name.rpartition(".")[2]
        # OPT and its kin keep two rows in front of the first position.
        if (own == "wpe" or "position" in own) and size is not None and size <= rows <= size + 2:
            return int(size)
    return None


def check_positions(limit: int | None, tokens: int, function: str = "generate") -> None:
    """Raises ValueError if a sequence is longer than the teacher's `position_limit`."""
    if limit is not None and tokens > limit:
        raise ValueError(
            f"{function}: teacher must have a position for every token of the sequence, got "
            f"{limit} positions for {tokens} tokens"
        )


def _fingerprint(plain: Any) -> str | None:
    """Taken once for each content of the weight, as far as torch counts its changes."""
    embedding = input_embedding(plain)
    embedding = getattr(embedding, "original_module", embedding)  # not an adapter's copy
    if embedding is None:
        return None
    with align_module_device(embedding):  # accelerate loads an offloaded one inside
        weight = getattr(embedding, "weight", None)
        if not (isinstance(weight, torch.Tensor) and weight.dim() == 2 and _is_plain(weight)):
            return None
        content = None
        if not weight.is_inference():
            content = (id(weight), weight.data_ptr(), weight._version)
        known = vars(plain).get(_FINGERPRINT)
        if content is None or known is None or known[0] != content:
            rows = torch.linspace(0, weight.shape[0] - 1, 64, device=weight.device).long()
            sample = weight.detach()[rows].to(torch.bfloat16).cpu().contiguous().view(torch.uint8)
            known = content, hashlib.sha256(sample.numpy().tobytes()).hexdigest()[:16]
            vars(plain)[_FINGERPRINT] = known
    found: str = known[1]
    return found


def _is_plain(weight: torch.Tensor) -> bool:
    return (
        type(weight) in (torch.Tensor, nn.Parameter)
        and weight.is_floating_point()
        and weight.device.type != "meta"
    )


def end_token_ids(generation_config: Any) -> tuple[int, ...]:
    """The tokens that end an answer, by a generation configuration or None."""
    ids = getattr(generation_config, "eos_token_id", None)
    if ids is None:
        return ()
    return tuple(int(i) for i in torch.as_tensor(ids, device="cpu").flatten().tolist())
