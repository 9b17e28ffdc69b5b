"""The override margin of whatever chooses, from a larger model's opinion of its very choices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from s2t_ext.config import S2TConfig
from s2t_ext.decoding.record import StepEvent
from s2t_ext.distillation.quality.overrides import Overrides, choose_margin, count_overrides
from s2t_ext.hf.identity import check_same_tokenizer, vocabulary_size
from s2t_ext.hf.unwrapping import unwrap_model
from s2t_ext.rollouts import Rollouts, roll_out
from s2t_ext.runs.checks import require
from s2t_ext.runs.number_arguments import checked_numbers
from s2t_ext.runs.numbers import without_nan
from s2t_ext.teachers.base import Teacher, UnlabelledTrajectory


@dataclass(frozen=True)
class MarginCalibration:
    """What `calibrate_margin` found.

    Attributes:
        margin: For `S2TConfig.override_margin`.
        choices: Steps at which the trigger fired.
        before: Counts over them without a margin.
        after: Counts with it, of the same steps.
    """

    margin: float
    choices: int
    before: Overrides
    after: Overrides

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the share of harmful overrides among them; None for a share or mean of
        nothing.
        """
        counts = {
            name: without_nan({**asdict(found), "harm_rate": found.harm_rate})
            for name, found in (("before", self.before), ("after", self.after))
        }
        return {"override_margin": self.margin, "choices": self.choices, **counts}


@checked_numbers
def calibrate_margin(
    model: nn.Module,
    tokenizer: Any,
    judge: Teacher,
    prompts: Sequence[str],
    s2t: S2TConfig,
    *,
    harm_limit: float = 0.2,
    max_new_tokens: int = 256,
    batch_size: int = 8,
    use_chat_template: bool = True,
    progress: bool | None = None,
    **generate_kwargs: Any,
) -> MarginCalibration:
    """Decodes greedily with choices, asks a larger model about the candidates of each, and takes
    the override margin of the highest net recall at which few enough overrides do harm.

    Args:
        model: The student.
        tokenizer: Its tokenizer; it must pad on the left (it is set to).
        judge: The larger model; a choice that it holds less likely than the student's first
            candidate does harm.
        prompts: Texts; with `use_chat_template` each is one user turn.
        s2t: How choices are made, with a trigger and its threshold; its margin is left aside.
        harm_limit: Highest share of the overrides that may do harm, in [0, 1].
        max_new_tokens: Length of an answer, tokens.
        batch_size: Answers at a time.
        use_chat_template: Make each text a user turn.
        progress: Show a progress bar; None shows it on a terminal.
        generate_kwargs: Further options of `s2t_ext.generate`: the `selector` that chooses, or the
            `teacher`, such as an adapter (`s2t_ext.adapter_teacher`).

    Returns:
        The margin, in the units of what chooses (nats where a teacher does), and the counts with
        and without it. A margin of 0 where nothing was chosen.

    Raises:
        ValueError: for no prompts, a limit outside its range, a judge with another tokenizer, or a
            `s2t` whose teacher writes instead of choosing.
    """
    require(0 <= harm_limit <= 1, "calibrate_margin", "harm_limit", "be in [0, 1]", harm_limit)
    require(len(prompts) > 0, "calibrate_margin", "prompts", "hold at least one text", "none")
    rule = "choose among candidates ('local' or 'teacher')"
    require(s2t.select != "takeover", "calibrate_margin", "s2t.select", rule, repr(s2t.select))
    if judge.tokenizer is not None:
        check_same_tokenizer(tokenizer, judge.tokenizer, "calibrate_margin")
    config = replace(s2t, override_margin=0.0, score_temperature=0.0)
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    hidden = None if progress is None else not progress
    bar = tqdm(total=len(prompts), desc="override margin", unit="answer", disable=hidden)
    for begin in range(0, len(prompts), batch_size):
        some, choices = prompts[begin : begin + batch_size], _Choices(config.k)
        answers = roll_out(
            model,
            tokenizer,
            some,
            s2t=config,
            max_new_tokens=max_new_tokens,
            use_chat_template=use_chat_template,
            on_step=choices.add,
            **generate_kwargs,
        )
        parts += choices.judged(answers, judge, vocabulary_size(unwrap_model(model)))
        bar.update(len(some))
    bar.close()
    totals, logprobs = (
        torch.cat([torch.zeros(0, config.k), *column])
        for column in (zip(*parts, strict=True) if parts else ((), ()))
    )
    mask, probs = totals > -torch.inf, logprobs.exp()
    margin = choose_margin(totals, mask, probs, harm_limit)
    before, after = (count_overrides(totals, mask, probs, each) for each in (0.0, margin))
    return MarginCalibration(margin, totals.shape[0], before, after)


class _Choices:
    """The choices of a batch, noted while it is decoded.

    Args:
        k: Candidates of a choice.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self._steps: list[tuple[int, StepEvent]] = []

    def add(self, event: StepEvent) -> None:
        """The `on_step` of the decoding."""
        if event.scores is not None and bool(event.triggered.any()):
            self._steps.append((event.step, event))

    def judged(
        self, answers: Rollouts, judge: Teacher, vocabulary: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Per answer with choices: (totals, the judge's log-probabilities), fp32 [choices, k]; -inf
        where there is no candidate.
        """
        rows = [self._of_row(row) for row in range(len(answers.prompts))]
        questions = [
            self._question(prompt, response, *row[:2])
            for (prompt, response), row in zip(answers.pairs, rows, strict=True)
            if len(row[0])
        ]
        labels = judge.label_trajectories(questions, vocabulary=vocabulary)
        found = iter(labels)
        for steps, ids, totals in rows:
            if len(steps):
                logprobs = next(found).candidate_logprobs[steps].float().cpu()
                missing = ids < 0
                yield (
                    totals.masked_fill(missing, -torch.inf),
                    logprobs.masked_fill(missing, -torch.inf),
                )

    def _of_row(self, row: int) -> tuple[list[int], torch.Tensor, torch.Tensor]:
        """(steps, candidates [choices, k], totals [choices, k]) of an answer."""
        own = [(step, event) for step, event in self._steps if bool(event.triggered[row])]
        ids = [event.candidates[row].cpu() for _, event in own]
        totals = [event.scores[row].float().cpu() for _, event in own if event.scores is not None]
        empty = torch.zeros(0, self.k)
        return (
            [step for step, _ in own],
            torch.stack(ids) if ids else empty.long(),
            torch.stack(totals) if totals else empty,
        )

    def _question(
        self, prompt: list[int], response: list[int], steps: list[int], ids: torch.Tensor
    ) -> UnlabelledTrajectory:
        """The answer, with the candidates of its choices as the support of their steps."""
        support = torch.full((len(response), self.k), -1)
        support[steps] = ids
        everything = torch.tensor([*prompt, *response])
        return UnlabelledTrajectory(everything, len(prompt), support, torch.zeros(support.shape))
