"""What a training run is made of: data, model, score head and objective, which fit together."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from s2t_ext.distillation.data.collection import Collection
from s2t_ext.distillation.data.teacher_tokens import TeacherTokens
from s2t_ext.distillation.features import head_input_scale
from s2t_ext.distillation.groups import TOP_LOGPROBS, Trajectory, has_top_logprobs
from s2t_ext.distillation.objective import ObjectiveMaker
from s2t_ext.distillation.optimization import trainable
from s2t_ext.distillation.options import DistillConfig
from s2t_ext.distillation.packing import PackedModel
from s2t_ext.distillation.score_head import ScoreHead, head_digest
from s2t_ext.hf.adapters import has_adapter
from s2t_ext.hf.identity import (
    describe_base_model,
    describe_model,
    head_width,
    vocabulary_size,
)
from s2t_ext.runs.checks import require
from s2t_ext.selectors.selector import Selector


@dataclass
class Parts:
    """The parts of a training run.

    Attributes:
        training: Trajectories with groups to train on; with objective="tokens", those with known
            divergences, without their groups.
        held_out: Those that quality is measured on.
        teacher: The teacher's likeliest tokens, if they are trained towards.
        maker: Of the objective; holds the model that is trained and its score head.
        trigger_threshold: A step whose kl exceeds it is to be found by the trigger head, nats; inf
            without divergences.
        base_model: What identifies the student as it came.
        reserved_ids: Never proposed.
        digest: Of the collection.
        identity: What a checkpoint is resumed under.
    """

    training: list[Trajectory]
    held_out: list[Trajectory]
    teacher: TeacherTokens | None
    maker: ObjectiveMaker
    trigger_threshold: float
    base_model: dict[str, Any]
    reserved_ids: tuple[int, ...]
    digest: str
    identity: dict[str, Any]


def prepare(
    model: nn.Module,
    collection: Collection,
    config: DistillConfig,
    start: Selector | None = None,
) -> Parts:
    """Puts a run together; nothing is trained or computed over the collection yet.

    Args:
        model: The student, without adapter; changed in place (see `trainable`).
        collection: What it is trained on.
        config: Options.
        start: A selector whose score head training begins with.

    Raises:
        ValueError: if the collection has no training groups, or is of another model, or lacks the
            teacher's tokens where they are trained towards, or the head of `start` is of another
            form.
    """
    training, held_out = (
        _learnable(collection.trajectories(split), config) for split in ("train", "held_out")
    )
    base_model = describe_base_model(model)
    _check(model, collection, training)
    teacher = collection.teacher_tokens() if config.loss.teacher_kl_weight > 0 else None
    if config.loss.teacher_kl_weight > 0:
        known = teacher is not None and all(
            t in teacher for t in (*training, *held_out) if t.num_steps
        )
        rule = "hold the teacher's likeliest tokens (collect with teacher_topk)"
        require(known, "distill", "collection", rule, f"none in {collection.folder}")
    torch.manual_seed(config.seed)
    trained, base = trainable(model, config)
    packed = PackedModel(trained, config.head_layer)
    text_config = packed.plain.config.get_text_config(decoder=True)
    head = ScoreHead(
        head_width(packed.plain) if config.head_layer is None else text_config.hidden_size,
        config.bins,
        post=packed.head.post,
        bin_temperature=config.bin_temperature,
        use_prior=config.prior == "trained",
        hidden_scale=head_input_scale(packed, training[0]),
        width=config.head_width,
        dropout=config.head_dropout,
        layer=config.head_layer,
        num_logprobs=_num_logprobs([*training, *held_out], collection, config),
        seed=config.seed,
    ).to(packed.plain.device)
    if start is not None:
        head.start_from(start)
    threshold = _trigger_threshold(training, config.trigger_share)
    reserved_ids = tuple(collection.manifest["settings"].get("reserved_ids", ()))
    digest = collection.digest()
    identity = {"config": config.to_dict(), "collection": digest}
    if start is not None:
        identity["start"] = head_digest(start)
    loss = config.loss
    if config.objective == "tokens":
        loss = replace(loss, trigger_weight=0.0)
    return Parts(
        training,
        held_out,
        teacher,
        ObjectiveMaker(trained, head, loss, threshold, base, reserved_ids),
        threshold,
        base_model,
        reserved_ids,
        digest,
        identity,
    )


def _learnable(trajectories: Sequence[Trajectory], config: DistillConfig) -> list[Trajectory]:
    """Those that the objective can learn from, and of them what it looks at."""
    if config.objective == "tokens":
        steps = [t for t in trajectories if t.num_steps]
        return [replace(t, groups=()) for t in steps]
    return [t for t in trajectories if t.groups]


def _num_logprobs(
    trajectories: Sequence[Trajectory], collection: Collection, config: DistillConfig
) -> int:
    """How many log-probabilities the trigger head reads: none where a collection lacks them."""
    if config.objective == "tokens" or config.loss.trigger_weight == 0:
        return 0
    if has_top_logprobs(trajectories):
        return min(TOP_LOGPROBS, config.k)  # decoding finds k
    if any(t.kl for t in trajectories):
        warnings.warn(
            "distill: collection holds no best log-probabilities of its steps, so the trigger head "
            f"reads the states and the entropy alone (collect again for them): {collection.folder}",
            stacklevel=2,
        )
    return 0


def _trigger_threshold(training: Sequence[Trajectory], share: float) -> float:
    """The kl that `share` of the steps exceed; imported groups may come without divergences."""
    kls = np.array([kl for t in training for kl in t.kl])
    return float(np.quantile(kls, 1 - share)) if len(kls) else float("inf")


def _check(
    model: nn.Module,
    collection: Collection,
    training: Sequence[Trajectory],
) -> None:
    settings = collection.manifest["settings"]
    if not training:
        what = "answers" if settings["teacher"] is None else "groups"
        raise ValueError(
            f"distill: collection must hold {what} in its train split (without labels only "
            f"objective='tokens' learns), got none in {collection.folder}"
        )
    if has_adapter(model):
        raise ValueError("distill: model must have no adapter, got one (merge or unload it)")
    if settings["teacher"] is None:  # whole answers say nothing of the model that gave them
        largest = max(max(t.prompt + t.response) for t in training)
        rule = f"know every token of the collection's answers (up to {largest})"
        size = vocabulary_size(model)
        require(largest < size, "distill", "model", rule, f"{size} of them")
        return
    expected, found = settings["student"], describe_model(model)
    keys = ["model_type", "hidden_size", "num_hidden_layers", "fingerprint"]
    if expected.get("weights") and found["weights"]:  # quantised models have none
        keys.append("weights")
    for key in keys:
        if expected.get(key) != found[key]:
            raise ValueError(
                f"distill: model must be the collection's student ({key} {expected.get(key)}), got "
                f"{key} {found[key]}"
            )
