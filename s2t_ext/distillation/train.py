"""`distill`: trains an S2T-LOCAL selector on a collection (paper, section 3.4; design, sections 2.4
and 8).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from s2t_ext.config import S2TConfig
from s2t_ext.distillation.data.collection import Collection
from s2t_ext.distillation.features import cached_states, head_input_scale
from s2t_ext.distillation.groups import Trajectory, batches_by_length
from s2t_ext.distillation.measure import measure
from s2t_ext.distillation.objective import Counts, Objective, ObjectiveMaker
from s2t_ext.distillation.optimization import (
    denormals_flushed,
    parameter_groups,
    schedule,
    sum_over_processes,
    trainable,
)
from s2t_ext.distillation.options import DistillConfig
from s2t_ext.distillation.packing import PackedModel, pack
from s2t_ext.distillation.quality import HeldOut, Quality
from s2t_ext.distillation.score_head import ScoreHead, head_digest
from s2t_ext.distillation.training_state import TrainingState
from s2t_ext.hf.adapters import has_adapter
from s2t_ext.hf.identity import describe_base_model
from s2t_ext.runs.files import write_atomically
from s2t_ext.selectors.selector import Selector
from s2t_ext.triggers import threshold_at_rate

QUALITY_NAME = "quality.json"


@dataclass
class Distilled:
    """Result of `distill`.

    Attributes:
        selector: Trained, calibrated, with its adapter if it has one.
        quality: On the held-out trajectories; None if there were none.
        folder: Of the run: `selector/`, `metrics.jsonl`, `quality.json`, the last checkpoint, and
            `model/` for method="full".
    """

    selector: Selector
    quality: Quality | None
    folder: Path


def distill(
    model: nn.Module,
    collection: Collection | str | Path,
    output: str | Path,
    config: DistillConfig | None = None,
    *,
    decoding: S2TConfig | None = None,
    trigger_rate: float = 0.01,
    start: Selector | str | Path | None = None,
    progress: bool | None = None,
) -> Distilled:
    """Trains a selector; call it again with the same arguments to resume a killed run.

    Under `accelerate launch` the batches of a step are spread over the processes and their
    gradients summed.

    Args:
        model: The student the collection was made with, without adapter; changed in place. Method
            "lora" wraps it.
        collection: A `Collection` or its folder.
        output: Folder of the run.
        config: Options; None takes the defaults.
        decoding: Options the selector will decode with by default.
        trigger_rate: Share of steps at which the calibrated triggers fire, in (0, 1).
        start: A selector without adapter (or its folder) whose score rows and trigger head training
            begins with, such as one of method "rows", which takes minutes; None begins with random
            rows. A head that already fits bends an adapter less (linear probing, then fine-tuning:
            Kumar et al., ICLR 2022).
        progress: Show a progress bar; None shows it on a terminal.

    Raises:
        ValueError: for a collection without training groups or of another model, a `start` of
            another form, a rate out of range, or an output folder with a run of other options or
            data.
        FileNotFoundError: if there is no collection, or no selector to start from.
    """
    if not 0 < trigger_rate < 1:
        raise ValueError(f"distill: trigger_rate must be in (0, 1), got {trigger_rate}")
    config = config or DistillConfig()
    if not isinstance(collection, Collection):
        collection = Collection(collection)
    if start is not None and not isinstance(start, Selector):
        start = Selector.from_pretrained(start)
    if start is not None:
        start.check_fits(model, where="distill", name="start")
    run = _Run(model, collection, Path(output), config, start)
    run.train(progress)
    return run.finish(decoding or S2TConfig(k=config.k), trigger_rate)


class _Run:
    """One training run: everything `distill` does."""

    def __init__(
        self,
        model: nn.Module,
        collection: Collection,
        folder: Path,
        config: DistillConfig,
        start: Selector | None = None,
    ) -> None:
        from accelerate import PartialState

        self.config, self.folder = config, folder
        self.processes = PartialState(cpu=next(model.parameters()).device.type == "cpu")
        self.training = [t for t in collection.trajectories("train") if t.groups]
        self.held_out = [t for t in collection.trajectories("held_out") if t.groups]
        self.base_model = describe_base_model(model)
        _check(model, collection, self.training, self.base_model)
        torch.manual_seed(config.seed)
        self.model, base = trainable(model, config)
        kls = torch.tensor([kl for t in self.training for kl in t.kl], dtype=torch.float64)
        self.trigger_threshold = float("inf")  # imported groups may come without divergences
        if len(kls):
            self.trigger_threshold = float(np.quantile(kls.numpy(), 1 - config.trigger_share))
        packed = PackedModel(self.model)
        settings = collection.manifest["settings"]
        self.reserved_ids = tuple(settings.get("reserved_ids", ()))
        self.head = ScoreHead(
            packed.plain.config.get_text_config(decoder=True).hidden_size,
            config.bins,
            post=packed.head.post,
            bin_temperature=config.bin_temperature,
            use_prior=config.prior == "trained",
            hidden_scale=head_input_scale(packed, self.training[0]),
            seed=config.seed,
        ).to(packed.plain.device)
        if start is not None:
            self.head.start_from(start)
        self.maker = ObjectiveMaker(
            self.model, self.head, config.loss, self.trigger_threshold, base, self.reserved_ids
        )
        digest = collection.digest()
        identity = {
            "config": config.to_dict(),
            "collection": digest,
            "processes": self.processes.num_processes,
        }
        if start is not None:
            identity["start"] = head_digest(start)
        self.state = TrainingState(folder, identity, self._is_main)
        self.state.check()  # before the long work of the next line
        self.states = None
        if config.method == "rows":
            everything = [*self.training, *self.held_out]
            self.states = cached_states(packed, everything, folder, digest)
        self.parameters = parameter_groups(self.model, self.head, config)
        self.optimizer = torch.optim.AdamW(self.parameters, weight_decay=config.weight_decay)
        self._measured: HeldOut | None = None

    @denormals_flushed()
    def train(self, progress: bool | None) -> None:
        """All epochs, from the last checkpoint if there is one."""
        modules = {"model": self.model, "head": self.head}
        done = self.state.restore(modules, self.optimizer)
        per_epoch = len(self._steps_of_epoch(0))
        total = per_epoch * self.config.epochs
        hidden = None if progress is None else not progress
        bar = tqdm(total=total, initial=done, desc="distill", unit="step", disable=hidden)
        if done == 0:
            self._evaluate(0)
        for epoch in range(done // per_epoch, self.config.epochs):
            for index, step in enumerate(self._steps_of_epoch(epoch)):
                number = epoch * per_epoch + index
                if number < done:
                    continue
                self._optimize(step, number, total)
                bar.update()
                last = index + 1 == per_epoch
                if last:
                    self._evaluate(number + 1)
                if last or (number + 1) % self.config.checkpoint_every == 0:
                    self.state.save(modules, self.optimizer, number + 1)
        bar.close()

    def finish(self, decoding: S2TConfig, trigger_rate: float) -> Distilled:
        """Settles the prior weight and the thresholds, and writes the selector."""
        quality = None
        measured = self._measure() if self.held_out else None
        if measured is not None:
            weight = float(self.head.prior_weight.detach())
            if self.config.prior != "none":
                weight = measured.best_prior_weight(weight)
            quality = measured.quality(weight, self.trigger_threshold)
            with torch.no_grad():
                self.head.prior_weight.fill_(weight)
        if self.config.method == "full":
            fitted = describe_base_model(self.model)
        else:
            fitted = self.base_model
        selector = self.head.to_selector(
            base_model=fitted, decoding=decoding, reserved_ids=self.reserved_ids
        )
        if self.config.method == "lora":
            selector.adapted_model = self.model
        self._calibrate(selector, trigger_rate, measured)
        self.model.eval()
        if self._is_main:
            selector.save_pretrained(self.folder / "selector")
            if self.config.method == "full":
                self.maker.packed.plain.save_pretrained(self.folder / "model")
            content = {} if quality is None else quality.to_dict()
            write_atomically(self.folder / QUALITY_NAME, json.dumps(content, indent=2) + "\n")
        self.processes.wait_for_everyone()  # nobody reads, or ends, before it is written
        return Distilled(selector, quality, self.folder)

    @property
    def _is_main(self) -> bool:
        return bool(self.processes.is_main_process)

    def _steps_of_epoch(self, epoch: int) -> list[list[list[Trajectory]]]:
        """The batches of every optimiser step; the same for the same seed and epoch."""
        generator = torch.Generator().manual_seed(1000 * self.config.seed + epoch)
        order = torch.randperm(len(self.training), generator=generator).tolist()
        batches = batches_by_length(self.training, self.config.batch_size, order)
        size = self.config.accumulation * self.processes.num_processes
        return [batches[i : i + size] for i in range(0, len(batches), size)]

    def _optimize(self, step: list[list[Trajectory]], number: int, total: int) -> None:
        start = time.perf_counter()
        rate = schedule(number, total, self.config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        self.model.train(self.config.method != "rows")
        self._measured = None
        counts = Counts.of([t for batch in step for t in batch])
        sums = torch.zeros(3)
        processes = self.processes
        for batch in step[processes.process_index :: processes.num_processes]:
            objective = self._objective(batch, counts)
            objective.total.backward()
            terms = (objective.groups, objective.base_kl, objective.trigger)
            sums += torch.tensor([float(term.detach()) for term in terms])
        trained = [p for group in self.parameters for p in group["params"]]
        if processes.num_processes > 1:
            sum_over_processes(trained, sums)
        norm = torch.nn.utils.clip_grad_norm_(trained, self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        names = ("groups", "base_kl", "trigger")
        losses = {f"loss_{n}": v for n, v in zip(names, sums.tolist(), strict=True)}
        self.state.log(
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

    def _objective(self, batch: list[Trajectory], counts: Counts) -> Objective:
        packed = pack(batch).to(self.head.rows.device)
        if self.states is None:
            return self.maker.packed_objective(packed, counts)
        return self.maker.objective_of_states(packed, *self.states.of(batch), counts)

    def _evaluate(self, step: int) -> None:
        if not self.held_out or not self._is_main:
            return
        weight = float(self.head.prior_weight.detach())
        quality = self._measure().quality(weight, self.trigger_threshold)
        self.state.log({"step": step, "held_out": quality.to_dict()})

    def _measure(self) -> HeldOut:
        """What the held-out groups get, kept until the next optimiser step."""
        if self._measured is None:
            self._measured = measure(self.maker, self.held_out, self.states, self.config)
        return self._measured

    def _calibrate(self, selector: Selector, rate: float, measured: HeldOut | None) -> None:
        """Thresholds from the rollouts themselves: every step of them was labelled."""
        some = [*self.training, *self.held_out]
        warmup = (selector.decoding or S2TConfig()).warmup_steps
        for name in ("entropy", "kl"):
            values = [v for t in some for v in getattr(t, name)[warmup:]]
            if values:
                selector.calibrations[name] = threshold_at_rate(values, rate, name)
        if not any(t.kl for t in self.training) or self.config.loss.trigger_weight == 0:
            selector.trigger_head = None  # it has learnt nothing
        elif measured is not None and measured.trigger.numel():
            probabilities = torch.sigmoid(measured.trigger).tolist()
            selector.calibrations["head"] = threshold_at_rate(probabilities, rate, "head")


def _check(
    model: nn.Module,
    collection: Collection,
    training: Sequence[Trajectory],
    base_model: dict[str, Any],
) -> None:
    if not training:
        raise ValueError(
            f"distill: collection must hold groups in its train split, got none in "
            f"{collection.folder}"
        )
    if has_adapter(model):
        raise ValueError("distill: model must have no adapter, got one (merge or unload it)")
    expected = collection.manifest["settings"]["student"]
    for key in ("model_type", "hidden_size", "num_hidden_layers", "fingerprint"):
        if expected.get(key) != base_model[key]:
            raise ValueError(
                f"distill: model must be the collection's student ({key} {expected.get(key)}), got "
                f"{key} {base_model[key]}"
            )
