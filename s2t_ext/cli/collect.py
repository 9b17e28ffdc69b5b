"""`python -m s2t_ext collect`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s2t_ext.cli.collecting.answers import (
    NO_TEACHER,
    answer_filter,
    check_answers,
    collect_without_teacher,
)
from s2t_ext.cli.collecting.prompt_sources import grouped_prompts, task_prompts
from s2t_ext.cli.common import (
    check_path,
    decoding_config,
    load_model,
    one_line_errors,
    progress,
    say,
    show,
    wrote,
)
from s2t_ext.cli.engines import (
    Engine,
    EngineOptions,
    check_engine,
    load_engine,
    load_engine_teacher,
    longest_prompt,
)
from s2t_ext.cli.options import (
    AsJson,
    CollectedSteps,
    Dtype,
    HeldOutBy,
    KeptAnswers,
    Model,
    RolloutPolicy,
    SelectorPath,
    TeacherCacheDir,
    TeacherModelName,
    Threshold,
    Trigger,
    UseChatTemplate,
)
from s2t_ext.cli.resuming import check_output
from s2t_ext.cli.teachers import TEACHER_HELP, check_teacher, load_teacher

if TYPE_CHECKING:
    from s2t_ext.config import S2TConfig
    from s2t_ext.runs.prompts import Prompt


def collect(
    model: Model,
    teacher: Annotated[
        str, typer.Option(help=f"{TEACHER_HELP} none: keep whole answers, without labels.")
    ],
    output: Annotated[Path, typer.Option(help="Folder of the collection; resumes if it has one.")],
    prompts: Annotated[
        Path | None,
        typer.Option(
            help='.jsonl ("prompt" or "question"; prompts of the same "group" share a split) or '
            "text file, one prompt a line."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Instead of --prompts: train split of gsm_symbolic, mix, a generator."),
    ] = None,
    problems: Annotated[int, typer.Option(help="How many of the task.")] = 300,
    k: Annotated[
        int | None, typer.Option(help="Candidates per labelled step.", show_default="16")
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            help="Share of a rollout's steps to keep; of `either`, twice at most.",
            show_default="0.1",
        ),
    ] = None,
    steps: Annotated[
        CollectedSteps | None,
        typer.Option(
            help="Which: those of highest divergence (kl); those where the student is least "
            "certain, at which an entropy trigger fires (entropy); or either.",
            show_default="kl",
        ),
    ] = None,
    entropy_threshold: Annotated[
        float | None,
        typer.Option(
            help="With --steps entropy or either: every step of an entropy above this (nats), "
            "instead of a share."
        ),
    ] = None,
    policy: Annotated[
        RolloutPolicy | None,
        typer.Option(
            help="How the rollouts are decoded: greedy, sampling (the default with a "
            "--temperature), with the teacher's choices (s2t), or with a selector's (s2t-local): "
            "the states that decoding will meet."
        ),
    ] = None,
    selector: SelectorPath = None,
    trigger: Trigger = None,
    threshold: Threshold = None,
    rollouts: Annotated[int, typer.Option(help="Per prompt.")] = 1,
    temperature: Annotated[float, typer.Option(help="Of the rollouts; 0 is greedy.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(help="Length of the rollouts.")] = 512,
    batch_size: Annotated[int, typer.Option(help="Rollouts at a time; a batch is a shard.")] = 8,
    held_out: Annotated[float, typer.Option(help="Share of the prompts to set aside.")] = 0.1,
    held_out_by: Annotated[
        HeldOutBy,
        typer.Option(
            help="Set whole groups aside, to measure transfer to new ones; or prompts, to measure "
            "others of the same groups."
        ),
    ] = "group",
    seed: Annotated[int, typer.Option(help="Of the task's problems and of the sampling.")] = 0,
    rollouts_from: Annotated[
        Path | None,
        typer.Option(
            help="Finished collection whose rollouts are labelled instead of decoding: of the same "
            "student, prompts, rollouts, temperature, length, seed and chat option. Or a .jsonl "
            'file of {"prompt": [ids], "response": [ids]}, a line for each rollout.'
        ),
    ] = None,
    teacher_topk: Annotated[
        int,
        typer.Option(
            help="Also keep this many of the teacher's likeliest tokens of every step, e.g. 16, "
            "for `distill --prefix-kl teacher`."
        ),
    ] = 0,
    keep: Annotated[
        KeptAnswers | None,
        typer.Option(
            help="With --teacher none, the answers to keep: those that the --task's answer key "
            "confirms (right), or whose result more than half of the --rollouts of their prompt "
            "have (majority)."
        ),
    ] = None,
    dtype: Dtype = "bfloat16",
    use_chat_template: UseChatTemplate = True,
    teacher_model_name: TeacherModelName = None,
    teacher_cache_dir: TeacherCacheDir = None,
    engine: Engine = "transformers",
    engine_options: EngineOptions = None,
    as_json: AsJson = False,
) -> None:
    """Roll a student out and have a teacher label the steps where they differ."""
    with one_line_errors(resumes=True):
        if (prompts is None) == (task is None):
            raise ValueError("one of --prompts and --task must be given, got both or none")
        check_path("--model", model)
        if teacher == NO_TEACHER:
            labels: dict[str, Any] = dict(policy=policy, entropy_threshold=entropy_threshold)
            labels |= dict(teacher_topk=teacher_topk or None, teacher_cache_dir=teacher_cache_dir)
            labels |= dict(teacher_model_name=teacher_model_name, k=k, share=share, steps=steps)
            check_answers(keep, task, rollouts, labels)
        elif keep is not None:
            raise ValueError(f"--keep must come with --teacher none, got --teacher {teacher}")
        else:
            check_teacher(teacher, teacher_model_name, teacher_cache_dir, model)
        arguments = check_engine(engine, engine_options, policy)
        decoding = rollout_decoding(policy, selector, temperature, trigger, threshold)
        chosen = grouped_prompts(prompts) if prompts else task_prompts(str(task), problems, seed)
        options: dict[str, Any] = dict(
            rollouts=rollouts,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            held_out=held_out,
            held_out_by=held_out_by,
            use_chat_template=use_chat_template,
            seed=seed,
        )
        if teacher == NO_TEACHER:
            kept = answer_filter(keep, task, chosen, seed)
            options["rollouts_from"] = rollouts_from
            collect_without_teacher(
                *(model, dtype, chosen, output, kept, (engine, arguments), options, as_json)
            )
            return
        labelled = dict(k=k, share=share, steps=steps, entropy_threshold=entropy_threshold)
        options |= {**LABELLED, **{n: v for n, v in labelled.items() if v is not None}}
        options["teacher_topk"] = teacher_topk
        _collect_labelled(
            *(model, selector, dtype, chosen, output, decoding, rollouts_from, options),
            engine=(engine, arguments),
            teacher=(teacher, teacher_model_name, teacher_cache_dir),
            as_json=as_json,
        )


#: Which steps are labelled where no option says so.
LABELLED = {"k": 16, "share": 0.1, "steps": "kl", "entropy_threshold": None}


def _collect_labelled(
    model: str,
    selector: str | None,
    dtype: str,
    chosen: Sequence[Prompt],
    output: Path,
    decoding: S2TConfig | None,
    rollouts_from: Path | None,
    options: dict[str, Any],
    engine: tuple[str, dict[str, Any]],
    teacher: tuple[str, str | None, Path | None],
    as_json: bool,
) -> None:
    """Loads the models, runs `s2t_ext.collect` and prints what it has collected."""
    settings = {**options, "prompts": len(chosen)}
    settings["held_out_by"] = None if options["held_out_by"] == "group" else options["held_out_by"]
    settings["teacher_topk"] = options["teacher_topk"] or None
    if rollouts_from is None:
        settings["engine"] = "vllm" if engine[0] == "vllm" else None
    check_output("collect", output / "manifest.json", settings, inside="settings")
    student, tokenizer = load_model(model, dtype)
    import s2t_ext

    chosen_by = s2t_ext.Selector.from_pretrained(selector, student) if selector else None
    with ExitStack() as engines:
        llm = large = None
        if engine[0] == "vllm":
            texts = [prompt.text for prompt in chosen]
            length = longest_prompt(tokenizer, texts, options["use_chat_template"])
            length += options["max_new_tokens"]
            if rollouts_from is None:
                llm = load_engine(engines, model, dtype, length, engine[1], selector, decoding)
            large = load_engine_teacher(engines, teacher[0], dtype, length, engine[1])
        if large is None:
            large = load_teacher(*teacher, tokenizer, dtype, model)
        collection = s2t_ext.collect(
            *(student, tokenizer, large, chosen, output),
            decoding=decoding,
            selector=chosen_by,
            rollouts_from=rollouts_from,
            engine=llm,
            **options,
            progress=progress(),
        )
    summary = collection.summary()
    show(summary, as_json)
    _warn_of_share(summary, options["held_out"])
    wrote(output, f"s2t-ext distill --model {model} --collection {output} --output RUN")


def rollout_decoding(
    policy: str | None,
    selector: str | None,
    temperature: float,
    trigger: str | None,
    threshold: float | None,
) -> S2TConfig | None:
    """How a policy decodes; None for the student by itself.

    Args:
        policy: One of the choices of --policy; None takes greedy or sampling by the temperature.
        selector: A folder or repository, for s2t-local.
        temperature: Of the rollouts.
        trigger: Of the policies that choose; None takes the selector's, or the paper's.
        threshold: Of that trigger.
    """
    if (selector is None) == (policy == "s2t-local"):
        raise ValueError(
            f"--selector must be given for --policy s2t-local and no other, got {selector} for "
            f"{policy}"
        )
    if policy == ("sampling" if temperature == 0 else "greedy"):
        rule = "above 0" if temperature == 0 else "0"
        raise ValueError(f"--temperature must be {rule} for --policy {policy}, got {temperature}")
    if policy in ("s2t", "s2t-local"):
        teacher = "of the labels" if policy == "s2t" else None
        return decoding_config(selector, teacher, trigger=trigger, threshold=threshold)
    for option, value in (("--trigger", trigger), ("--threshold", threshold)):
        if value is not None:
            raise ValueError(
                f"{option} must be left out without a policy that chooses, got {value}"
            )
    return None


def _warn_of_share(summary: dict[str, Any], held_out: float) -> None:
    """Of a few groups, or of groups of very different sizes, the share can be far off."""
    train, rest = (summary[split]["trajectories"] for split in ("train", "held_out"))
    realised = rest / max(train + rest, 1)
    if abs(realised - held_out) > 0.1:
        say(
            f"held out: {rest} of {train + rest} trajectories, {realised:.0%} instead of "
            f"{held_out:.0%} (prompts of a group stay together)"
        )
