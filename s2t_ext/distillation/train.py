"""`distill`: trains an S2T-LOCAL selector on a collection (paper, section 3.4)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from s2t_ext.config import S2TConfig
from s2t_ext.distillation.data.collection import Collection
from s2t_ext.distillation.measure import TokenFit
from s2t_ext.distillation.options import DistillConfig
from s2t_ext.distillation.preparation import prepare
from s2t_ext.distillation.quality.held_out import HeldOut, Quality
from s2t_ext.distillation.quality.ngrams import ngram_bar
from s2t_ext.distillation.run import TrainingRun
from s2t_ext.hf.identity import describe_base_model, end_token_ids
from s2t_ext.runs.checks import require
from s2t_ext.runs.files import write_atomically
from s2t_ext.runs.number_arguments import checked_numbers
from s2t_ext.selectors.selector import Selector
from s2t_ext.selectors.thresholds import threshold_at_rate

QUALITY_NAME = "quality.json"


@dataclass
class Distilled:
    """Result of `distill`.

    Attributes:
        selector: Trained, calibrated, with its adapter if it has one; None for
            objective="tokens".
        quality: On the held-out trajectories; None if there were none, or there is no selector.
        folder: Of the run: `metrics.jsonl`, `quality.json`, the last checkpoint; `selector/`, or
            `adapter/` for objective="tokens"; `model/` for method="full".
        tokens: How near the model is to the held-out responses and the teacher, where the loss has
            such a term.
    """

    selector: Selector | None
    quality: Quality | None
    folder: Path
    tokens: TokenFit | None = None


@checked_numbers
def distill(
    model: nn.Module,
    collection: Collection | str | Path,
    output: str | Path,
    config: DistillConfig | None = None,
    *,
    decoding: S2TConfig | None = None,
    trigger_rate: float = 0.01,
    harm_limit: float | None = 0.2,
    start: Selector | str | Path | None = None,
    report_to: Sequence[Any] = (),
    process_timeout: float = 7200.0,
    progress: bool | None = None,
) -> Distilled:
    """Trains a selector, or the student itself (`DistillConfig.objective`); call it again with the
    same arguments to resume a killed run.

    Under `accelerate launch` or `torchrun` the batches of a step are spread over the processes
    (accelerate's data parallelism: every process holds the model). `accelerate launch
    --mixed_precision bf16` keeps the trained weights as they are and computes in bfloat16.

    Args:
        model: The student the collection was made with, or, for a collection of answers
            (`collect_answers`), any model of the same tokenizer; without adapter; changed in
            place. Method "lora" wraps it.
        collection: A `Collection` or its folder.
        output: Folder of the run.
        config: Options; None takes the defaults.
        decoding: Options the selector will decode with by default.
        trigger_rate: Share of steps at which the calibrated triggers fire, in (0, 1).
        harm_limit: The override margin is chosen on the held-out groups at which the entropy
            trigger fires: that of the highest net recall at which at most this share of the
            overrides is harmful (`choose_margin`), and with it the prior weight, unless the prior
            is "none". None keeps the margin of `decoding`.
        start: A selector without adapter (or its folder) whose score rows and trigger head training
            begins with, such as one of method "rows", which takes minutes; None begins with random
            rows. A head that already fits bends an adapter less (linear probing, then fine-tuning:
            Kumar et al., ICLR 2022).
        report_to: Trackers beside `metrics.jsonl`: names that accelerate knows ("tensorboard",
            "wandb", "trackio", ...), or `accelerate.tracking.GeneralTracker` objects. They get
            every number of a line, under names such as "held_out/agreement".
        process_timeout: Seconds one of several processes waits for another, which includes the
            measuring of the held-out part by the first. Without effect where the processes' group
            was started before.
        progress: Show a progress bar; None shows it on a terminal.

    Raises:
        ValueError: for a collection without training groups or of another model, or without the
            teacher's tokens where the loss asks for them; a `start` of another form; a rate out of
            range; a tracker that is not installed; a launcher's engine that splits the model; or an
            output folder with a run of other options or data.
        FileNotFoundError: if there is no collection, or no selector to start from.
    """
    require(0 < trigger_rate < 1, "distill", "trigger_rate", "be in (0, 1)", trigger_rate)
    if harm_limit is not None:
        require(0 <= harm_limit <= 1, "distill", "harm_limit", "be in [0, 1]", harm_limit)
    config = config or DistillConfig()
    if not isinstance(collection, Collection):
        collection = Collection(collection)
    if start is not None and not isinstance(start, Selector):
        start = Selector.from_pretrained(start)
    if start is not None:
        none = config.objective == "selector"
        require(none, "distill", "start", "be None for objective='tokens'", "a selector")
        rule = "have no adapter (its head fits adapted states)"
        require(start.adapted_model is None, "distill", "start", rule, "one")
        start.check_fits(model, "distill: start")
    require(process_timeout > 0, "distill", "process_timeout", "be above 0 s", process_timeout)
    options: dict[str, Any] = dict(report_to=report_to, process_timeout=process_timeout)
    parts = prepare(model, collection, config, start)
    run = TrainingRun(parts, Path(output), config, **options)
    run.train(progress)
    if config.objective == "tokens":
        return _finish_tokens(run)
    decoding = decoding or S2TConfig(k=config.k)
    return _finish(run, decoding, trigger_rate, harm_limit)


def _finish_tokens(run: TrainingRun) -> Distilled:
    """Writes the adapter as PEFT does, or the model, and how near it has come."""
    fit = run.token_fit() if run.parts.held_out else None
    run.model.eval()
    if run.is_main:
        name = "adapter" if run.config.method == "lora" else "model"
        run.model.save_pretrained(run.folder / name)  # type: ignore[operator]
        content = {} if fit is None else fit.to_dict()
        write_atomically(run.folder / QUALITY_NAME, json.dumps(content, indent=2) + "\n")
    run.close()
    return Distilled(None, None, run.folder, fit)


def _finish(
    run: TrainingRun, decoding: S2TConfig, trigger_rate: float, harm_limit: float | None
) -> Distilled:
    """Settles the prior weight, the thresholds and the margin, and writes the selector."""
    parts, quality = run.parts, None
    measured = run.measured() if parts.held_out else None
    if measured is not None:
        weight = float(run.head.prior_weight.detach())
        if run.config.prior != "none":
            weight = measured.best_prior_weight(weight)
        with torch.no_grad():
            run.head.prior_weight.fill_(weight)
    if run.config.method == "full":
        fitted = describe_base_model(run.model)
    else:
        fitted = parts.base_model
    selector = run.head.to_selector(
        base_model=fitted, decoding=decoding, reserved_ids=parts.reserved_ids
    )
    if run.config.method == "lora":
        selector.adapted_model = run.model
    _calibrate(run, selector, trigger_rate, measured)
    if measured is not None:
        quality = _settle_margin(run, selector, measured, harm_limit)
    fit = None
    if parts.held_out and run.config.loss.trains_responses:
        fit = run.token_fit()
    run.model.eval()
    if run.is_main:
        selector.save_pretrained(run.folder / "selector")
        if run.config.method == "full":
            parts.maker.packed.plain.save_pretrained(run.folder / "model")
        content = {} if quality is None else quality.to_dict()
        write_atomically(run.folder / QUALITY_NAME, json.dumps(content, indent=2) + "\n")
        if quality is not None:  # what the card says, which the last epoch's line does not
            run.log({"step": run.steps, "held_out": content, "settled": True})
    run.close()  # nobody reads, or ends, before it is written
    return Distilled(selector, quality, run.folder, fit)


def _settle_margin(
    run: TrainingRun, selector: Selector, measured: HeldOut, harm_limit: float | None
) -> Quality:
    """Writes the override margin into the selector's decoding options, and measures with it."""
    parts, weight = run.parts, selector.prior_weight
    entropy = selector.calibrations.get("entropy")
    threshold = None if entropy is None else entropy.threshold
    decoding = selector.decoding or S2TConfig()
    if harm_limit is not None and measured.scores.shape[0]:
        decoded = measured.at_trigger(threshold)
        if run.config.prior != "none":
            weight = selector.prior_weight = decoded.prior_weight_for_margin(weight, harm_limit)
            with torch.no_grad():
                run.head.prior_weight.fill_(weight)
        margin = decoded.best_margin(weight, harm_limit)
        decoding = selector.decoding = replace(decoding, override_margin=margin)
    quality = measured.quality(
        weight,
        parts.trigger_threshold,
        decoding.override_margin,
        entropy_threshold=threshold,
        end_ids=end_token_ids(getattr(parts.maker.packed.plain, "generation_config", None)),
    )
    bar: dict[str, Any] = ngram_bar(
        parts.training, parts.held_out, run.config.k, threshold, harm_limit
    )
    return replace(quality, **bar)


def _calibrate(run: TrainingRun, selector: Selector, rate: float, measured: HeldOut | None) -> None:
    """Thresholds from the rollouts themselves: every step of them was labelled."""
    parts = run.parts
    some = [*parts.training, *parts.held_out]
    warmup = (selector.decoding or S2TConfig()).warmup_steps
    for name in ("entropy", "kl"):
        values = [v for t in some for v in getattr(t, name)[warmup:]]
        if values:
            selector.calibrations[name] = threshold_at_rate(values, rate, name)
    if not any(t.kl for t in parts.training) or run.config.loss.trigger_weight == 0:
        selector.trigger_head = None  # it has learnt nothing
    elif measured is not None and not measured.trigger_is_worth_it(parts.trigger_threshold):
        selector.trigger_head = None  # the entropy needs no head
    elif measured is not None and measured.trigger.numel():
        probabilities = torch.sigmoid(measured.trigger).tolist()
        selector.calibrations["head"] = threshold_at_rate(probabilities, rate, "head")
