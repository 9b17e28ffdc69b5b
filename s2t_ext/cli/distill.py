"""`python -m s2t_ext distill`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s2t_ext.cli.common import check_path, load_model, one_line_errors, progress, say, show, wrote
from s2t_ext.cli.options import (
    AsJson,
    Dtype,
    LossName,
    MethodName,
    ObjectiveName,
    PrefixKlName,
    PriorName,
)

TRACKERS = ("tensorboard", "wandb", "trackio")

if TYPE_CHECKING:
    from s2t_ext.distillation.losses import LossConfig
    from s2t_ext.distillation.train import Distilled


def distill(
    model: Annotated[str, typer.Option(help="The student the collection was made with.")],
    collection: Annotated[Path, typer.Option(help="Folder written by `collect`.")],
    output: Annotated[Path, typer.Option(help="Folder of the run; resumes if it has one.")],
    method: Annotated[
        MethodName, typer.Option(help="lora; rows (score rows on a frozen backbone); or full.")
    ] = "lora",
    objective: Annotated[
        ObjectiveName,
        typer.Option(
            help="selector; or tokens: the adapter or the weights alone, by --prefix-kl teacher "
            "(on-policy distillation) or --sft-weight (supervised fine-tuning)."
        ),
    ] = "selector",
    prefix_kl: Annotated[
        PrefixKlName | None,
        typer.Option(
            help="What the model is held to on its own rollouts: the base model; the teacher, if "
            "the collection has --teacher-topk; or none.",
            show_default="base, or none for tokens",
        ),
    ] = None,
    prefix_kl_weight: Annotated[
        float | None,
        typer.Option(help="Of --prefix-kl.", show_default="0.1 for base, 1 for teacher"),
    ] = None,
    sft_weight: Annotated[
        float, typer.Option(help="Weight of the likelihood of the rollouts' own tokens.")
    ] = 0.0,
    loss: Annotated[
        LossName,
        typer.Option(
            help="top1: the teacher's favourite, with a hinge and some kl; kl: the teacher's "
            "distribution; pairwise: the teacher's order."
        ),
    ] = "top1",
    epochs: Annotated[int, typer.Option(help="Passes over the trajectories.")] = 3,
    batch_size: Annotated[int, typer.Option(help="Trajectories per forward pass.")] = 4,
    accumulation: Annotated[int, typer.Option(help="Forward passes per optimiser step.")] = 1,
    learning_rate: Annotated[float, typer.Option(help="Of the adapter or the weights.")] = 5e-5,
    head_learning_rate: Annotated[float, typer.Option(help="Of rows, prior, trigger.")] = 1e-3,
    prior: Annotated[
        PriorName,
        typer.Option(
            help="Weight of the student's own log-probability: trained, fitted afterwards, or none."
        ),
    ] = "trained",
    start: Annotated[
        Path | None,
        typer.Option(help="Selector whose score head training begins with, e.g. one of rows."),
    ] = None,
    head_width: Annotated[
        int, typer.Option(help="Units of a hidden layer before the score rows; 0: none.")
    ] = 0,
    head_layer: Annotated[
        int | None,
        typer.Option(help="Decoder layer whose states are scored, 1 the first; none: the last."),
    ] = None,
    lora_r: Annotated[int, typer.Option(help="Rank of the adapter.")] = 16,
    lora_alpha: Annotated[int, typer.Option(help="Its output is scaled by alpha / rank.")] = 32,
    lora_targets: Annotated[
        str,
        typer.Option(
            help="Names of the modules that get an adapter, e.g. q_proj,v_proj.",
            show_default="all linear layers",
            metavar="NAMES",
        ),
    ] = "",
    lora_dropout: Annotated[float, typer.Option(help="Dropout of the adapter's inputs.")] = 0.05,
    k: Annotated[int, typer.Option(help="Candidates at decoding.")] = 8,
    trigger_rate: Annotated[
        float, typer.Option(help="Share of steps at which the stored triggers fire, in (0, 1).")
    ] = 0.01,
    harm_limit: Annotated[
        float,
        typer.Option(
            help="Choose the override margin so that at most this share of the overrides, on the "
            "held-out rollouts, is of candidates that the teacher likes less; in [0, 1]."
        ),
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Of the order, the dropout and the first rows.")] = 0,
    dtype: Dtype = "bfloat16",
    process_timeout: Annotated[
        float, typer.Option(help="Seconds one of several processes waits for another.")
    ] = 7200.0,
    report_to: Annotated[
        list[str] | None,
        typer.Option(
            help="Tracker that also gets what metrics.jsonl does: tensorboard, wandb or trackio; "
            "may be repeated.",
            metavar="NAME",
        ),
    ] = None,
    plot: Annotated[bool, typer.Option(help="Also draw metrics.png (needs matplotlib).")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a selector, or the student itself, on a collection."""
    with one_line_errors(resumes=True):
        if plot and importlib.util.find_spec("matplotlib") is None:
            raise ImportError("--plot needs matplotlib: pip install 's2t_ext[plot]'")
        if not collection.is_dir():
            raise FileNotFoundError(f"--collection must be a folder, got {collection}")
        if not 0 < trigger_rate < 1:
            raise ValueError(f"distill: trigger_rate must be in (0, 1), got {trigger_rate}")
        if not 0 <= harm_limit <= 1:
            raise ValueError(f"distill: harm_limit must be in [0, 1], got {harm_limit}")
        for name in report_to or ():
            if name not in TRACKERS:
                raise ValueError(f"--report-to must be one of {', '.join(TRACKERS)}, got {name}")
        check_path("--model", model)
        from accelerate import PartialState

        from s2t_ext.distillation.data.answers import check_answers_tokenizer
        from s2t_ext.distillation.data.collection import Collection
        from s2t_ext.distillation.options import DistillConfig
        from s2t_ext.distillation.train import distill as run
        from s2t_ext.distillation.training_state import check_identity

        config = DistillConfig(
            method=method,
            objective=objective,
            loss=loss_config(loss, objective, prefix_kl, prefix_kl_weight, sft_weight),
            epochs=epochs,
            batch_size=batch_size,
            accumulation=accumulation,
            learning_rate=learning_rate,
            head_learning_rate=head_learning_rate,
            prior=prior,
            head_width=head_width,
            head_layer=head_layer,
            lora_r=lora_r,
            lora_alpha=lora_alpha,
            lora_targets=tuple(n.strip() for n in lora_targets.split(",") if n.strip()),
            lora_dropout=lora_dropout,
            k=k,
            seed=seed,
        )
        identity = {"config": config.to_dict(), "collection": Collection(collection).digest()}
        if check_identity(output, json.loads(json.dumps(identity)), whole=False):
            say(f"{output} holds this run already: going on with it")
        student, tokenizer = load_model(model, dtype)
        check_answers_tokenizer(Collection(collection), tokenizer)
        options: dict[str, Any] = dict(trigger_rate=trigger_rate, harm_limit=harm_limit)
        options |= dict(report_to=report_to or (), process_timeout=process_timeout)
        result = run(
            student, collection, output, config, start=start, progress=progress(), **options
        )
        if not PartialState().is_main_process:
            return
        if plot:
            from s2t_ext.distillation.plot import plot_metrics

            plot_metrics(output)
        report(result, tokenizer, model, collection, as_json)


def loss_config(
    kind: str, objective: str, prefix_kl: str | None, weight: float | None, sft_weight: float
) -> LossConfig:
    """The loss that the options ask for."""
    from s2t_ext.distillation.losses import LossConfig

    if prefix_kl is None:
        prefix_kl = "base" if objective == "selector" else "none"
    if weight is not None and prefix_kl == "none":
        raise ValueError("--prefix-kl-weight must come with --prefix-kl, got it alone")
    base = teacher = 0.0
    if prefix_kl == "base":
        base = 0.1 if weight is None else weight
    elif prefix_kl == "teacher":
        teacher = 1.0 if weight is None else weight
    return LossConfig(kind, base_kl_weight=base, teacher_kl_weight=teacher, sft_weight=sft_weight)


def report(result: Distilled, tokenizer: Any, model: str, collection: Path, as_json: bool) -> None:
    """Writes what belongs beside the weights, prints how good they are, and names the next step."""
    output = result.folder
    for name in ("model", "adapter"):  # with the tokenizer, so that the commands load the folder
        if (output / name).is_dir():
            tokenizer.save_pretrained(output / name)
    found: dict[str, Any] = {} if result.quality is None else result.quality.to_dict()
    if result.tokens is not None:
        found |= result.tokens.to_dict()
    if not as_json:
        found.pop("bands", None)  # a table of their own, in quality.json
    show(found, as_json)
    if result.selector is None:
        own = output / ("adapter" if (output / "adapter").is_dir() else "model")
        wrote(own, f"s2t-ext evaluate --model {own} --policy greedy --output RESULTS")
        return
    from s2t_ext.exporting.card import write_card

    write_card(output / "selector", output, collection)
    wrote(
        output / "selector",
        f"s2t-ext evaluate --model {model} --selector {output / 'selector'} --policy greedy "
        "--policy s2t-local --output RESULTS",
    )
