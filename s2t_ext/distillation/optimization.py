"""What is trained, at which rate, and by which processes."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
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


def start_accelerator(
    device: torch.device, folder: Path, report_to: Sequence[Any] = (), timeout: float = 7200.0
) -> Any:
    """The `accelerate.Accelerator` of a run: its processes, mixed precision and trackers.

    Args:
        device: Of the model; every process holds it whole.
        folder: Of the run, where trackers write.
        report_to: Names or instances of accelerate's trackers.
        timeout: Seconds a process waits for another one, if it is this that starts their group.

    Raises:
        ValueError: for a tracker that is not installed, or where the launcher asks for an engine
            that splits the model.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs

    accelerator = Accelerator(
        cpu=device.type == "cpu",
        device_placement=False,
        # `backward` is not to divide: the objective's counts are those of the whole step.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        log_with=list(report_to) or None,
        project_dir=folder,
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=timedelta(seconds=timeout)),
            # A batch may leave the trigger head or the projection without a gradient.
            DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False),
        ],
    )
    found = [getattr(one, "value", one) for one in accelerator.log_with]
    missing = [name for name in report_to if isinstance(name, str) and name not in found]
    require(not missing, "distill", "report_to", "name trackers that are installed", missing)
    engine = accelerator.distributed_type.value
    data_parallel = engine not in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "XLA")
    rule = "be data-parallel: every process holds the model"
    require(data_parallel, "distill", "the launcher's engine", rule, engine)
    return accelerator


def start_trackers(accelerator: Any, name: str, options: dict[str, Any]) -> None:
    """Tells the trackers of an accelerator what is run."""
    if accelerator.log_with:
        flat = {k: v if isinstance(v, int | float | str) else str(v) for k, v in flattened(options)}
        accelerator.init_trackers(name, config=flat)


def flattened(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested dictionaries, under names such as "held_out/agreement"."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value
