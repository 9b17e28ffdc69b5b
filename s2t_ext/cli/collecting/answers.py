"""`python -m s2t_ext collect --teacher none`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2t_ext.cli.common import load_model, progress, show, wrote
from s2t_ext.cli.engines import load_engine, longest_prompt
from s2t_ext.cli.resuming import check_output

if TYPE_CHECKING:
    from s2t_ext.distillation.data.answers import AnswerFilter
    from s2t_ext.runs.prompts import Prompt

#: What --teacher says where nobody labels.
NO_TEACHER = "none"


def check_answers(keep: str | None, task: str | None, rollouts: int, given: dict[str, Any]) -> None:
    """Says no to options that do not fit `--teacher none`.

    Args:
        keep: Of --keep.
        task: Of --task.
        rollouts: Of --rollouts.
        given: By name, options that only a collection with labels has, None where left out.
    """
    for name, value in given.items():
        if value is not None:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} must be left out with --teacher none, got {value}")
    if keep == "right" and task is None:
        raise ValueError("--keep right must come with a --task, whose answers are known, got none")
    if keep == "majority" and rollouts < 3:
        raise ValueError(f"--keep majority must come with --rollouts of 3 or more, got {rollouts}")


def answer_filter(
    keep: str | None, task: str | None, prompts: Sequence[Prompt], seed: int
) -> AnswerFilter | None:
    """What --keep asks for.

    Args:
        keep: "right", "majority", or None for every answer.
        task: Of --task.
        prompts: What is asked.
        seed: Of the task's problems.
    """
    from s2t_ext.evaluation.answer_filters import MajorityAnswers, RightAnswers
    from s2t_ext.evaluation.tasks import Problem, load_task

    if keep is None:
        return None
    if task is None:
        return MajorityAnswers([Problem(str(i), "", p.text, "") for i, p in enumerate(prompts)])
    problems = load_task(task, len(prompts), seed=seed, split="train")
    return RightAnswers(problems) if keep == "right" else MajorityAnswers(problems)


def collect_without_teacher(
    model: str,
    dtype: str,
    prompts: Sequence[Prompt],
    output: Path,
    keep: AnswerFilter | None,
    engine: tuple[str, dict[str, Any]],
    options: dict[str, Any],
    as_json: bool,
) -> None:
    """Runs `s2t_ext.collect_answers` and prints what it has collected.

    Args:
        model: Folder or hub repository of the model that answers.
        dtype: Of its weights.
        prompts: What is asked.
        output: Folder of the collection.
        keep: Which answers stay.
        engine: Name of what decodes, and arguments of `vllm.LLM`.
        options: Further arguments of `collect_answers`.
        as_json: Print JSON.
    """
    import s2t_ext

    settings = {**options, "prompts": len(prompts), "keep": "all" if keep is None else keep.name}
    rollouts_from = settings.pop("rollouts_from")
    if rollouts_from is None:
        settings["engine"] = "vllm" if engine[0] == "vllm" else None
    check_output("collect", output / "manifest.json", settings, inside="settings")
    answerer, tokenizer = load_model(model, dtype)
    options = {**options, "progress": progress()}
    with ExitStack() as engines:
        llm = None
        if engine[0] == "vllm" and rollouts_from is None:
            texts = [prompt.text for prompt in prompts]
            length = longest_prompt(tokenizer, texts, options["use_chat_template"])
            length += options["max_new_tokens"]
            llm = load_engine(engines, model, dtype, length, engine[1])
        collection = s2t_ext.collect_answers(
            answerer, tokenizer, prompts, output, keep=keep, engine=llm, **options
        )
    asked = len(prompts) * options["rollouts"]
    show({"asked": asked, **collection.summary()}, as_json)
    wrote(
        output,
        f"s2t-ext distill --model STUDENT --collection {output} --objective tokens "
        "--sft-weight 1 --output RUN",
    )
