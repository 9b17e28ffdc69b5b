"""The loop of a training run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from s2t_ext.distillation.features import CachedStates, cached_states
from s2t_ext.distillation.groups import Trajectory, batches_by_length
from s2t_ext.distillation.measure import TokenFit, measure, measure_tokens
from s2t_ext.distillation.objective import Counts, Objective, TrainedObjective
from s2t_ext.distillation.optimization import (
    denormals_flushed,
    flattened,
    parameter_groups,
    schedule,
    start_accelerator,
    start_trackers,
)
from s2t_ext.distillation.options import DistillConfig
from s2t_ext.distillation.packing import pack
from s2t_ext.distillation.preparation import Parts
from s2t_ext.distillation.quality.held_out import HeldOut
from s2t_ext.distillation.token_terms import StepLabels
from s2t_ext.distillation.training_state import TrainingState
from s2t_ext.runs.interrupts import interrupt_after_step
from s2t_ext.runs.seeds import row_seed


class TrainingRun:
    """The loop of one training run in its folder: resumable, over one or more processes.

    Args:
        parts: What is trained on what.
        folder: Of the run.
        config: Options.
        report_to: As in `distill`.
        process_timeout: As in `distill`.

    Raises:
        ValueError: if the folder holds a run of other options or data, or the launcher asks for an
            engine that splits the model.
    """

    def __init__(
        self,
        parts: Parts,
        folder: Path,
        config: DistillConfig,
        *,
        report_to: Sequence[Any] = (),
        process_timeout: float = 7200.0,
    ) -> None:
        self.parts, self.folder, self.config = parts, folder, config
        self.model, self.head = parts.maker.model, parts.maker.head
        self.accelerator = start_accelerator(
            self.head.rows.device, folder, report_to, process_timeout
        )
        identity = {**parts.identity, "processes": self.accelerator.num_processes}
        if self.accelerator.mixed_precision != "no":
            identity["mixed_precision"] = self.accelerator.mixed_precision
        self.state = TrainingState(folder, identity, self.accelerator)
        self.state.check()
        self.parameters = parameter_groups(self.model, self.head, config)
        optimizer = torch.optim.AdamW(self.parameters, weight_decay=config.weight_decay)
        self.objective, self.optimizer = self.accelerator.prepare(
            TrainedObjective(parts.maker), optimizer
        )
        self._states: CachedStates | None = None
        self._measured: HeldOut | None = None

    @denormals_flushed()
    def train(self, progress: bool | None) -> None:
        """All epochs, from the last checkpoint if there is one.

        Raises:
            KeyboardInterrupt: after Ctrl-C, once the step is done and saved.
        """
        if self.config.method == "rows":
            everything = [*self.parts.training, *self.parts.held_out]
            packed = self.parts.maker.packed
            self._states = cached_states(packed, everything, self.folder, self.parts.digest)
        modules = {"model": self.model, "head": self.head}
        done = self.state.restore(modules, self.optimizer)
        if done == 0 and self.accelerator.process_index > 0:  # each drops other inputs
            torch.manual_seed(row_seed(self.config.seed, self.accelerator.process_index))
        start_trackers(self.accelerator, self.folder.name, self.config.to_dict())
        per_epoch, total = len(self._steps_of_epoch(0)), self.steps
        hidden = None if progress is None else not progress
        bar = tqdm(total=total, initial=done, desc="distill", unit="step", disable=hidden)
        shown = self._evaluate(0) if done == 0 else {}
        # Of several processes, one that stops leaves the others waiting for its gradients.
        with bar, interrupt_after_step(self.accelerator.num_processes == 1) as interrupted:
            for number, step in self._steps_from(done):
                shown |= self.optimize(step, number, total)
                last = (number + 1) % per_epoch == 0
                if last:
                    shown |= self._evaluate(number + 1)
                if last or interrupted() or (number + 1) % self.config.checkpoint_every == 0:
                    self.state.save(modules, self.optimizer, number + 1)
                bar.set_postfix(shown, refresh=False)
                bar.update()
                if interrupted():
                    raise KeyboardInterrupt

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return len(self._steps_of_epoch(0)) * self.config.epochs

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return bool(self.accelerator.is_main_process)

    def _steps_from(self, done: int) -> Iterator[tuple[int, list[list[Trajectory]]]]:
        """Number and batches of every optimiser step that is not done yet."""
        per_epoch = len(self._steps_of_epoch(0))
        for epoch in range(done // per_epoch, self.config.epochs):
            for number, step in enumerate(self._steps_of_epoch(epoch), epoch * per_epoch):
                if number >= done:
                    yield number, step

    def _steps_of_epoch(self, epoch: int) -> list[list[list[Trajectory]]]:
        """The batches of every optimiser step; the same for the same seed and epoch."""
        generator = torch.Generator().manual_seed(row_seed(self.config.seed, epoch))
        order = torch.randperm(len(self.parts.training), generator=generator).tolist()
        batches = batches_by_length(self.parts.training, self.config.batch_size, order)
        size = self.config.accumulation * self.accelerator.num_processes
        return [batches[i : i + size] for i in range(0, len(batches), size)]

    def optimize(self, step: list[list[Trajectory]], number: int, total: int) -> dict[str, float]:
        """One optimiser step over its batches; `number` of `total` sets the learning rate.

        Returns:
            What the progress bar shows of it.
        """
        start = time.perf_counter()
        rate = schedule(number, total, self.config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        self.model.train(self.config.method != "rows")
        self.head.train()
        self._measured = None
        counts = Counts.of([t for batch in step for t in batch])
        sums = self._accumulate(step, counts)
        trained = [p for group in self.parameters for p in group["params"]]
        norm = self.accelerator.clip_grad_norm_(trained, self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        names = Objective.names()
        losses = {f"loss_{n}": v for n, v in zip(names, sums.tolist(), strict=True)}
        self.log(
            {
                "step": number + 1,
                **losses,
                "prior_weight": float(self.head.prior_weight.detach()),
                "grad_norm": float(norm),
                "learning_rate_factor": rate,
                "groups": counts.groups,
                "seconds": round(time.perf_counter() - start, 3),
            }
        )
        return {"loss": sum(losses.values())}

    def _accumulate(self, step: list[list[Trajectory]], counts: Counts) -> torch.Tensor:
        """Sums the gradients of a step's batches, over the processes too; returns its terms."""
        accelerator = self.accelerator
        processes = accelerator.num_processes
        own = step[accelerator.process_index :: processes]
        # The processes' gradients are averaged, and all take part: one that the last step of an
        # epoch leaves without a batch does so with a weight of 0.
        weight = processes if own else 0
        sums = torch.zeros(len(Objective.names()))
        batches = own or step[:1]
        for number, batch in enumerate(batches, 1):
            last = number == len(batches)
            with contextlib.nullcontext() if last else accelerator.no_sync(self.objective):
                total, terms = self.objective(*self._inputs(batch, counts))
                accelerator.backward(total * weight)
            sums += terms * bool(weight)
        device = self.head.rows.device
        reduced: torch.Tensor = accelerator.reduce(sums.to(device), reduction="sum").cpu()
        return reduced

    def _inputs(self, batch: list[Trajectory], counts: Counts) -> tuple[Any, ...]:
        """Those of `TrainedObjective`."""
        device, labels = self.head.rows.device, None
        if self.config.loss.trains_responses:
            labels = StepLabels.of(batch, self.parts.teacher, device)
        states = None if self._states is None else self._states.of(batch)
        return pack(batch).to(device), counts, labels, states

    def log(self, record: dict[str, Any]) -> None:
        """A line of the metrics; its numbers also go to the trackers."""
        self.state.log(record)
        values = {k: v for k, v in flattened(record) if type(v) in (int, float)}
        self.accelerator.log(values, step=values.pop("step"))

    def close(self) -> None:
        """Ends the trackers, and waits until every process has come here."""
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.accelerator.wait_for_everyone()

    def _evaluate(self, step: int) -> dict[str, float]:
        """Logs what the held-out part gets; returns what the progress bar shows of it."""
        if not self.parts.held_out or not self.is_main:
            return {}
        found: dict[str, Any] = {"step": step}
        shown = {}
        if self.config.objective == "selector":
            weight = float(self.head.prior_weight.detach())
            quality = self.measured().quality(weight, self.parts.trigger_threshold)
            found["held_out"] = quality.to_dict()
            shown["agreement"] = quality.agreement
        if self.config.loss.trains_responses:
            fit = self.token_fit()
            found["held_out_tokens"] = fit.to_dict()
            shown["nll"] = fit.nll
        self.log(found)
        return shown

    def token_fit(self) -> TokenFit:
        """How near the model is to the held-out responses and to the teacher."""
        parts = self.parts
        return measure_tokens(parts.maker, parts.held_out, parts.teacher, self.config)

    def measured(self) -> HeldOut:
        """What the held-out groups get, kept until the next optimiser step."""
        if self._measured is None:
            self._measured = measure(
                self.parts.maker, self.parts.held_out, self._states, self.config
            )
        return self._measured
