"""`python -m s2t_ext distill`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from s2t_ext.cli.common import check_path, load_model, one_line_errors, progress, say, show, wrote
from s2t_ext.cli.options import AsJson, Dtype, LossName, MethodName, PriorName


def distill(
    model: Annotated[str, typer.Option(help="The student the collection was made with.")],
    collection: Annotated[Path, typer.Option(help="Folder written by `collect`.")],
    output: Annotated[Path, typer.Option(help="Folder of the run; resumes if it has one.")],
    method: Annotated[
        MethodName, typer.Option(help="lora; rows (score rows on a frozen backbone); or full.")
    ] = "lora",
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
    plot: Annotated[bool, typer.Option(help="Also draw metrics.png (needs matplotlib).")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a selector on a collection."""
    with one_line_errors(resumes=True):
        if plot and importlib.util.find_spec("matplotlib") is None:
            raise ImportError("--plot needs matplotlib: pip install 's2t_ext[plot]'")
        if not collection.is_dir():
            raise FileNotFoundError(f"--collection must be a folder, got {collection}")
        if not 0 < trigger_rate < 1:
            raise ValueError(f"distill: trigger_rate must be in (0, 1), got {trigger_rate}")
        if not 0 <= harm_limit <= 1:
            raise ValueError(f"distill: harm_limit must be in [0, 1], got {harm_limit}")
        check_path("--model", model)
        from accelerate import PartialState

        from s2t_ext.distillation.data.collection import Collection
        from s2t_ext.distillation.losses import LossConfig
        from s2t_ext.distillation.options import DistillConfig
        from s2t_ext.distillation.train import distill as run
        from s2t_ext.distillation.training_state import check_identity
        from s2t_ext.exporting.card import write_card

        config = DistillConfig(
            method=method,
            loss=LossConfig(kind=loss),
            epochs=epochs,
            batch_size=batch_size,
            accumulation=accumulation,
            learning_rate=learning_rate,
            head_learning_rate=head_learning_rate,
            prior=prior,
            head_width=head_width,
            head_layer=head_layer,
            lora_dropout=lora_dropout,
            k=k,
            seed=seed,
        )
        identity = {"config": config.to_dict(), "collection": Collection(collection).digest()}
        if check_identity(output, json.loads(json.dumps(identity)), whole=False):
            say(f"{output} holds this run already: going on with it")
        student, tokenizer = load_model(model, dtype)
        options: dict[str, Any] = dict(trigger_rate=trigger_rate, harm_limit=harm_limit)
        result = run(
            student, collection, output, config, start=start, progress=progress(), **options
        )
        if not PartialState().is_main_process:
            return
        write_card(output / "selector", output, collection)
        if method == "full":
            tokenizer.save_pretrained(output / "model")
        if plot:
            from s2t_ext.distillation.plot import plot_metrics

            plot_metrics(output)
        found = {} if result.quality is None else result.quality.to_dict()
        if not as_json:
            found.pop("bands", None)  # a table of their own, in quality.json
        show(found, as_json)
        wrote(
            output / "selector",
            f"s2t-ext evaluate --model {model} --selector {output / 'selector'} --policy greedy "
            "--policy s2t-local --output RESULTS",
        )
