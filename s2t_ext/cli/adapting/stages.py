"""The stages of `adapt`: which commands run, with which options, and what they conclude."""

from __future__ import annotations

import gc
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from s2t_ext.cli.adapting.recipe import STAGES, arguments, check_names, option_names
from s2t_ext.cli.adapting.task_files import TaskSource, write_task_files
from s2t_ext.cli.adapting.ways import WAYS, Way
from s2t_ext.cli.common import hints_left_out, say
from s2t_ext.cli.teachers import is_server

STATE_NAME = "adapt.json"


@dataclass
class Adaptation:
    """The stages of one folder.

    Attributes:
        context: Of the command; its parent knows the others.
        shared: Options for every command that has them.
        sections: Options of each command.
        output: Folder of the run.
        way: What is learnt from.
        test: What `evaluate --task` takes, or None without answers to grade.
    """

    context: typer.Context
    shared: dict[str, Any]
    sections: dict[str, dict[str, Any]]
    output: Path
    way: Way
    test: Path | str | None = None

    @classmethod
    def of(
        cls,
        context: typer.Context,
        shared: dict[str, Any],
        sections: dict[str, dict[str, Any]],
        own: set[str],
    ) -> Adaptation:
        """The run that options ask for, its prompts and its test written down, all of its options
        checked; no model is loaded.
        """
        for name in ("model", "teacher", "output"):
            if shared.get(name) is None:
                raise ValueError(f"--{name} must be given, here or in the recipe, got none")
        source = TaskSource.of(shared, sections)
        name = _way(shared, source)
        output = Path(shared["output"])
        run = cls(context, shared, sections, output, WAYS[name](output, shared, sections))
        names = {stage: set(option_names(run._command(stage))) for stage in STAGES}
        free = {stage: names[stage] - run.way.fixed[stage] for stage in STAGES}
        for stage in STAGES:
            where = f"{stage} (learn_from: {name})"
            check_names(run._command(stage), sections[stage], free[stage], where)
        check_names(run._command("collect"), shared, own.union(*free.values()), "its own options")
        run.way.check()
        run.test = "test"  # stands for the test while options are checked
        for stage in STAGES:
            run._command(stage).make_context(stage, run._arguments(stage), parent=context)
        run.test = write_task_files(source, run.output)
        say(f"learning from {name}")
        return run

    def all_stages(self) -> None:
        """Runs those that are not done."""
        from s2t_ext.runs.files import remove_unfinished, write_atomically

        remove_unfinished(self.output)
        stages = [
            stage
            for stage in STAGES
            if self.way.has_stage(stage, self.sections[stage], self.test is not None)
        ]
        path, done = self.output / STATE_NAME, {}
        if path.exists():
            done = json.loads(path.read_text())
        for number, stage in enumerate(stages, 1):
            given = self._arguments(stage)
            asked = {"arguments": given, "input": self._input_digest(stage)}
            if done.get(stage) == asked:
                say(f"[{number}/{len(stages)}] {stage}: done before")
                continue
            say(f"[{number}/{len(stages)}] {stage}")
            done = {name: done[name] for name in stages[: number - 1]}
            with hints_left_out():
                self._invoke(stage, given)
            gc.collect()  # a stage's models lie in reference cycles; the next one needs the memory
            done[stage] = asked
            write_atomically(path, json.dumps(done, indent=2) + "\n")

    def verdict(self) -> tuple[dict[str, Any], str]:
        """(summary of the evaluation, which policy to use), also kept in the folder."""
        summary: dict[str, Any] | None = None
        if self.test is not None:
            summary = json.loads((self.output / "results" / "summary.json").read_text())
        sentence = self.way.verdict(summary)
        (self.output / "recommendation.txt").write_text(sentence + "\n")
        return summary or {}, sentence

    def _invoke(self, stage: str, given: list[str]) -> None:
        command = self._command(stage)
        with command.make_context(stage, list(given), parent=self.context) as inner:
            command.invoke(inner)

    def _command(self, stage: str) -> Any:
        assert self.context.parent is not None
        return self.context.parent.command.commands[stage]  # type: ignore[attr-defined]

    def _input_digest(self, stage: str) -> str:
        path = self.way.input_of(stage, self.test)
        if not isinstance(path, Path):
            return ""
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def _arguments(self, stage: str) -> list[str]:
        """The command line of a stage."""
        command, way = self._command(stage), self.way
        names, fixed = option_names(command), way.fixed[stage]
        values = dict(way.defaults[stage])
        if stage in way.rates:
            values[way.rates[stage]] = self.shared.get("trigger_rate", way.trigger_rate)
        if stage == "evaluate":
            values |= way.policies()
        values |= {k: v for k, v in self.shared.items() if k in names and k not in fixed}
        values |= self.sections[stage]
        return arguments(command, {**values, **way.between(stage, self.test)})


def _way(shared: dict[str, Any], source: TaskSource) -> str:
    """What is learnt from, by the option or by what is there."""
    name = shared.get("learn_from")
    if name is None:
        local = not is_server(str(shared["teacher"]))
        return "answers" if local and source.has_answers() else "labels"
    if name not in WAYS:
        raise ValueError(f"--learn-from must be one of {', '.join(WAYS)}, got {name}")
    if name == "answers" and not source.has_answers():
        raise ValueError(
            "--learn-from answers must have a --task, or --prompts of questions with answers, got "
            f"{source.prompts}"
        )
    return str(name)
