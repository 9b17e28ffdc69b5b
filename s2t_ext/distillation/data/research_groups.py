"""Reading the training groups of the released research code, and packing those that share a
trajectory.

Its `collect_s2t_data` option writes one JSON object per triggered step:

    problem_id, step        of the rollout; `step` counts response tokens
    context_ids             the tokens before the step, cut on the left to a maximum (511)
    cand_ids                the candidates
    teacher_prob_abs        their probabilities under the teacher

Every line repeats its context. Lines of one problem are put together again: one trajectory, whose
packed forward pass trains all of them. What the lines do not hold (the student's log-probabilities
and entropy) comes from one forward pass of the student per trajectory; divergences stay unknown, so
no trigger head is trained on them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from s2t_ext import ops
from s2t_ext.distillation.data.collection import Collection
from s2t_ext.distillation.groups import Group, Trajectory
from s2t_ext.distillation.packing import PackedModel
from s2t_ext.hf.identity import describe_base_model
from s2t_ext.hf.trajectory import trajectory_logits
from s2t_ext.runs.files import read_text
from s2t_ext.runs.number_arguments import checked_numbers
from s2t_ext.runs.prompts import Prompt, choose_held_out

FIELDS = ("problem_id", "step", "context_ids", "cand_ids", "teacher_prob_abs")


@dataclass
class ResearchTrajectory:
    """Lines of one rollout.

    Attributes:
        key: problem_id, and a number where its lines do not fit together.
        tokens: By absolute position.
        prompt: How many of them are the prompt.
        lines: By step.
    """

    key: str
    tokens: dict[int, int] = field(default_factory=dict)
    prompt: int = 0
    lines: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(self, line: dict[str, Any]) -> bool:
        """Adds a line unless it contradicts, or leaves a gap to, what is known."""
        context, step = line["context_ids"], line["step"]
        if not self.lines:  # the shortest context; a cut one makes the prompt what is left of it
            self.prompt = max(len(context) - step, 1)
            start = 0
        else:
            first = min(self.lines)
            known = len(self.lines[first]["context_ids"])
            start = known + (step - first) - len(context)
        if start < 0 or start > len(self.tokens) or step in self.lines:
            return False
        placed = {start + i: token for i, token in enumerate(context)}
        if any(self.tokens.get(position, token) != token for position, token in placed.items()):
            return False
        self.tokens.update(placed)
        self.lines[step] = line
        return True

    def step_of(self, step: int) -> int:
        """Response tokens before a line's step, counted from this trajectory's own prompt."""
        first = min(self.lines)
        return len(self.lines[first]["context_ids"]) + (step - first) - self.prompt


def read_research_groups(paths: Sequence[str | Path]) -> list[ResearchTrajectory]:
    """The trajectories of JSONL files, in the order of their first lines.

    Raises:
        ValueError: naming file and line, for a line without the fields of the module's docstring.
    """
    by_problem: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        for line in _lines(Path(path)):
            by_problem.setdefault(str(line["problem_id"]), []).append(line)
    found: list[ResearchTrajectory] = []
    taken = set(by_problem)
    for problem, lines in by_problem.items():
        open_ones: list[ResearchTrajectory] = []
        for line in sorted(lines, key=lambda item: item["step"]):
            if not any(trajectory.add(line) for trajectory in open_ones):
                key, number = problem, len(open_ones)
                while open_ones and key in taken:  # another problem may be called like that
                    key, number = f"{problem}-{number}", number + 1
                taken.add(key)
                open_ones.append(ResearchTrajectory(key))
                open_ones[-1].add(line)
        found += open_ones
    return found


@checked_numbers
def import_groups(
    model: nn.Module,
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    held_out: float = 0.1,
    reserved_ids: Sequence[int] = (),
) -> Collection:
    """A collection made of the research code's JSONL files; `distill` trains on it as on its own.

    Args:
        model: The student they were collected with.
        paths: The files.
        output: Folder of the collection.
        held_out: Share of the problems that is set aside.
        reserved_ids: The ids that code masked, to be masked from proposals here too.

    Raises:
        ValueError: for lines that cannot be read, or none.
    """
    trajectories = read_research_groups(paths)
    if not trajectories:
        raise ValueError("import_groups: paths must hold at least one group, got none")
    digest = hashlib.sha256(b"".join(Path(path).read_bytes() for path in paths)).hexdigest()
    settings = {
        "student": describe_base_model(model),
        "teacher": {"name": "of the imported groups"},
        "source_sha256": digest,
        **dict(held_out=held_out, reserved_ids=list(reserved_ids)),
    }
    collection = Collection.open_for_writing(output, settings, 1)
    if collection.missing_shards():
        completer = _Completer(model, reserved_ids)
        firsts = [next(iter(trajectory.lines.values())) for trajectory in trajectories]
        problems = [Prompt(str(line["problem_id"])) for line in firsts]
        records = [
            ("held_out" if is_held_out else "train", completer.complete(trajectory))
            for is_held_out, trajectory in zip(
                choose_held_out(problems, held_out), trajectories, strict=True
            )
        ]
        collection.write_shard(0, records)
    return collection


class _Completer:
    """What the lines do not say: the student's own log-probabilities and entropy."""

    def __init__(self, model: nn.Module, reserved_ids: Sequence[int]) -> None:
        self.packed = PackedModel(model)
        device = self.packed.plain.device
        self.blocked = torch.tensor(list(reserved_ids), device=device) if reserved_ids else None

    @torch.no_grad()
    def complete(self, found: ResearchTrajectory) -> Trajectory:
        tokens = [found.tokens[i] for i in range(len(found.tokens))]
        device = self.packed.plain.device
        lines = sorted(found.lines.items())
        steps = [found.step_of(step) for step, _ in lines]
        pieces = trajectory_logits(
            self.packed.plain,
            self.packed.head,
            torch.tensor(tokens, device=device),
            found.prompt,
            steps=steps,
            chunk=1,
        )
        groups = []
        for own, (_, line), logits in zip(steps, lines, pieces, strict=True):
            proposal = ops.propose_candidates(logits.contiguous(), 1, 64, self.blocked)
            candidates = torch.tensor(line["cand_ids"], device=device)
            logprobs = logits[0, candidates].float() - proposal.logsumexp
            # The student's best first.
            order = logprobs.argsort(descending=True, stable=True).tolist()
            logprobs = logprobs[order]
            groups.append(
                Group(
                    own,
                    tuple(line["cand_ids"][i] for i in order),
                    tuple(logprobs.tolist()),
                    tuple(line["teacher_prob_abs"][i] for i in order),
                    entropy=float(proposal.support_entropy),
                )
            )
        prompt, response = tokens[: found.prompt], tokens[found.prompt :]
        return Trajectory(found.key, tuple(prompt), tuple(response), tuple(groups))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, text in enumerate(read_text(path, "read_research_groups").split("\n"), 1):
        if not text.strip():
            continue
        where = f"read_research_groups: {path.name} line {number}"
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where} must be JSON, got {error}") from error
        missing = [name for name in FIELDS if not isinstance(line, dict) or name not in line]
        if missing:
            raise ValueError(f"{where} must have {', '.join(FIELDS)}, got no {missing[0]}")
        sizes = [len(line[name]) for name in ("cand_ids", "teacher_prob_abs", "context_ids")]
        if sizes[0] != sizes[1] or not sizes[2]:
            raise ValueError(
                f"{where} must have a probability per candidate and a context, got {sizes[0]} "
                f"candidates, {sizes[1]} probabilities and {sizes[2]} tokens"
            )
        yield line
