"""Local sufficiency: how often the teacher's token is among the student's own K best (paper,
section 3.1), and where.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from s2t_ext.analysis.sufficiency_report import ABSENT, SUPPORT, sufficiency_report
from s2t_ext.hf.identity import check_same_tokenizer, describe_model, vocabulary_size
from s2t_ext.hf.logits_head import find_logits_head
from s2t_ext.hf.model_state import input_device
from s2t_ext.hf.trajectory import CHUNK, trajectory_support
from s2t_ext.hf.unwrapping import unwrap_model
from s2t_ext.rollouts import Rollouts, roll_out
from s2t_ext.runs.number_arguments import checked_numbers
from s2t_ext.runs.processes import share_of_this_process
from s2t_ext.runs.run_folder import RunFolder
from s2t_ext.runs.seeds import row_seed
from s2t_ext.teachers.base import Teacher, check_another_model, describe_teacher


@checked_numbers
def measure_sufficiency(
    model: nn.Module,
    tokenizer: Any,
    teacher: Teacher,
    prompts: Sequence[str],
    output: str | Path,
    *,
    max_new_tokens: int = 512,
    batch_size: int = 8,
    temperature: float = 0.0,
    seed: int = 0,
    bootstrap_samples: int = 1000,
    use_chat_template: bool = True,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Rolls the student out, scores every step with one prefill of student and teacher, reports.

    Call it again with the same arguments to resume an interrupted run. Under `torchrun` or
    `accelerate launch` process i of n does the prompts i, i + n, ... in the same folder, and
    returns when it has done them; the last one writes the whole report.

    Args:
        model: The student.
        tokenizer: Its tokenizer.
        teacher: A `Teacher`; its tokenizer, if it has one, must be the student's.
        prompts: Texts; with `use_chat_template` each is one user turn.
        output: Folder of the run: settings, versions, a line per problem, `report.json`.
        max_new_tokens: Length of the rollouts, tokens.
        batch_size: Rollouts at a time.
        temperature: 0 rolls out greedily.
        seed: Of sampling and bootstrap.
        bootstrap_samples: Resamples of the problems behind the intervals.
        progress: Show a progress bar; None shows it on a terminal.

    Returns:
        The report of what is done, see `s2t_ext.analysis.sufficiency_report.sufficiency_report`;
        empty before anything is.

    Raises:
        ValueError: for no prompts, a teacher with another tokenizer or that is the student itself,
            or a folder of another run.
    """
    if not prompts:
        raise ValueError("measure_sufficiency: prompts must hold at least one text, got none")
    if teacher.tokenizer is not None:
        check_same_tokenizer(tokenizer, teacher.tokenizer, "measure_sufficiency")
    check_another_model("measure_sufficiency", model, teacher)
    settings = {
        "student": describe_model(unwrap_model(model)),
        "teacher": describe_teacher(teacher),
        "prompts": list(prompts),
        **dict(max_new_tokens=max_new_tokens, batch_size=batch_size, temperature=temperature),
        **dict(seed=seed, use_chat_template=use_chat_template),
    }
    run = RunFolder(output, settings, "measure_sufficiency")
    records = {r["index"]: r for r in run.results("problems")}
    own = share_of_this_process(range(len(prompts)))
    todo = [i for i in own if i not in records]
    measurer = _Measurer(model, teacher)
    bar = tqdm(
        total=len(own),
        initial=len(own) - len(todo),
        desc="sufficiency",
        unit="problem",
        disable=None if progress is None else not progress,
    )
    for begin in range(0, len(todo), batch_size):
        part = todo[begin : begin + batch_size]
        answers = roll_out(
            model,
            tokenizer,
            [prompts[i] for i in part],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seeds=[row_seed(seed, i) for i in part],
            use_chat_template=use_chat_template,
        )
        for record in measurer.measure(part, answers):
            run.append("problems", record)
            bar.update()
    bar.close()
    return _report(run, len(prompts), bootstrap_samples, seed)


def _report(run: RunFolder, prompts: int, samples: int, seed: int) -> dict[str, Any]:
    """Writes and returns the report of the records so far; see `evaluate` on processes that end
    together.
    """
    report: dict[str, Any] = {}
    records = _records(run)
    while records:
        finished = len(records) == prompts
        report = sufficiency_report(records, samples=samples, seed=seed)
        run.write("report.json", report)
        records = _records(run)
        if finished:
            run.merge("problems", records)
        if finished or len(records) < prompts:
            break
    return report


def _records(run: RunFolder) -> list[dict[str, Any]]:
    """Those of all processes, in the order of the prompts."""
    by_index = {record["index"]: record for record in run.results("problems")}
    return [by_index[index] for index in sorted(by_index)]


class _Measurer:
    """One prefill of student and teacher for every rollout."""

    def __init__(self, model: nn.Module, teacher: Teacher) -> None:
        self.teacher = teacher
        self.plain: Any = unwrap_model(model)
        self.head = find_logits_head(self.plain)

    def measure(self, indices: list[int], answers: Rollouts) -> list[dict[str, Any]]:
        """One record per problem."""
        records = []
        for index, (prompt, response) in zip(indices, answers.pairs, strict=True):
            seconds = {"rollout": answers.seconds / len(indices)}
            labels = self._label(prompt, response, seconds)
            record = {"index": index, "prompt_tokens": len(prompt), "response": response}
            records.append({**record, **labels, "seconds": seconds})
        return records

    @torch.no_grad()
    def _label(
        self, prompt: list[int], response: list[int], seconds: dict[str, float]
    ) -> dict[str, Any]:
        if not response:
            return {"kl": [], "entropy": [], "rank": []}
        start = time.perf_counter()
        ids = torch.tensor([*prompt, *response], device=input_device(self.plain))
        support = trajectory_support(self.plain, self.head, ids[:-1], len(prompt), SUPPORT)
        seconds["student"] = time.perf_counter() - start
        answer = self.teacher.label_trajectory(
            ids,
            len(prompt),
            support.ids,
            support.logits,
            vocabulary=vocabulary_size(self.plain),
            chunk=CHUNK,
        )
        seconds["teacher"] = time.perf_counter() - start - seconds["student"]
        matches = support.ids == answer.teacher_argmax[:, None]
        rank = torch.where(matches.any(1), matches.int().argmax(1), ABSENT)
        kl = answer.kl.double().nan_to_num(posinf=1e4)
        return {
            "kl": [float(f"{v:.6g}") for v in kl.tolist()],
            "entropy": [float(f"{v:.6g}") for v in support.support_entropy.tolist()],
            "rank": rank.tolist(),
        }
