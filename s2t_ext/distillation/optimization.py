"""What is trained, at which rate, and the sum of gradients over processes."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from s2t_ext.distillation.options import DistillConfig
from s2t_ext.distillation.score_head import ScoreHead
from s2t_ext.runs.checks import require


def trainable(model: nn.Module, config: DistillConfig) -> tuple[nn.Module, nn.Module | None]:
    """(the model to train, the frozen base if the adapter cannot be switched off to get it).

    Raises:
        ValueError: if the model has no module of a name in `lora_targets`.
    """
    modules = [name for name, _ in model.named_modules()]
    for target in config.lora_targets:
        there = any(f".{name}".endswith(f".{target}") for name in modules)
        require(there, "distill", "lora_targets", "name modules of the model", target)
    model.requires_grad_(config.method == "full")
    base = None
    if config.method == "lora":
        from peft import LoraConfig, TaskType, get_peft_model

        lora = LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=config.lora_r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=list(config.lora_targets) or "all-linear",
        )
        model = get_peft_model(model, lora)
    elif config.method == "full" and config.loss.base_kl_weight > 0:
        base = copy.deepcopy(model).eval().requires_grad_(False)
    if config.gradient_checkpointing and config.method != "rows":
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        model.enable_input_require_grads()  # type: ignore[operator]
    return model, base


def parameter_groups(
    model: nn.Module, head: ScoreHead, config: DistillConfig
) -> list[dict[str, Any]]:
    groups = [
        {
            "params": [p for p in head.parameters() if p.requires_grad],
            "peak": config.head_learning_rate,
        }
    ]
    trained = [p for p in model.parameters() if p.requires_grad]
    if trained:
        groups.append({"params": trained, "peak": config.learning_rate})
    return groups


@contextlib.contextmanager
def denormals_flushed() -> Iterator[None]:
    """Takes denormal numbers for zero in this thread and those it starts, such as autograd's.

    Where the adapter changes nothing yet, gradients of the base term underflow, and a processor
    that takes 100 cycles for each denormal number spends half of a backward pass on them.
    """
    before = not torch.tensor(5e-324, dtype=torch.float64).mul(1.0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def schedule(step: int, total: int, warmup: float) -> float:
    """Factor on the learning rate: up linearly, down linearly to 0."""
    rising = math.ceil(warmup * total)
    if step < rising:
        return (step + 1) / rising
    return (total - step) / max(total - rising, 1)


def sum_over_processes(parameters: Sequence[nn.Parameter], sums: torch.Tensor) -> None:
    """Sums the gradients, and the loss terms, over all processes, in one message."""
    for p in parameters:  # a process may have had no batch in the last step of an epoch
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    device = parameters[0].device
    pieces = [p.grad.reshape(-1).float() for p in parameters]  # type: ignore[union-attr]
    flat = torch.cat([*pieces, sums.to(device)])
    torch.distributed.all_reduce(flat)
    *gradients, total = flat.split([*(p.numel() for p in parameters), len(sums)])
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad.copy_(gradient.view_as(p))  # type: ignore[union-attr]
    sums.copy_(total)
