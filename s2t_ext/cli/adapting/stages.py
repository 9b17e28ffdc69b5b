"""The stages of `adapt`: which commands run, with which options, and what they conclude."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from s2t_ext.cli.adapting.recipe import STAGES, arguments, check_names, option_names
from s2t_ext.cli.adapting.task_files import (
    CALIBRATION_NAME,
    PROMPTS_NAME,
    TaskSource,
    write_task_files,
)
from s2t_ext.cli.common import hints_left_out, say

#: What a stage is given that neither the recipe nor the command line says.
DEFAULTS: dict[str, dict[str, Any]] = {
    "collect": dict(steps="entropy", k=8, held_out=0.2, held_out_by="prompt"),
    "distill": dict(method="rows"),
    "calibrate": {},
    "evaluate": dict(teacher_trigger="entropy"),
}
#: What `adapt` alone decides: the folders, and what goes from one stage to the next.
FIXED = {
    "collect": {"prompts", "task", "problems", "output", "json"},
    "distill": {"collection", "output", "json"},
    "calibrate": {"prompts", "selector", "json"},
    "evaluate": {"task", "problems", "selector", "output", "json"},
}
STATE_NAME = "adapt.json"


@dataclass
class Adaptation:
    """The stages of one folder.

    Attributes:
        context: Of the command; its parent knows the others.
        shared: Options for every command that has them.
        sections: Options of each command.
        output: Folder of the run.
        test: What `evaluate --task` takes, or None without answers to grade.
    """

    context: typer.Context
    shared: dict[str, Any]
    sections: dict[str, dict[str, Any]]
    output: Path
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
        run = cls(context, shared, sections, Path(shared["output"]))
        names = {stage: set(option_names(run._command(stage))) - FIXED[stage] for stage in STAGES}
        for stage in STAGES:
            check_names(run._command(stage), sections[stage], names[stage], stage)
        if sections["distill"].get("objective", "selector") != "selector":
            raise ValueError("--config: distill must train a selector here, got another objective")
        known = own.union(*names.values())
        check_names(run._command("collect"), shared, known, "its own options")
        source = TaskSource.of(shared, sections)
        run.test = "test"  # stands for the test while options are checked
        for stage in STAGES:
            run._command(stage).make_context(stage, run._arguments(stage), parent=context)
        run.test = write_task_files(source, run.output)
        return run

    def all_stages(self) -> None:
        """Runs those that are not done."""
        from s2t_ext.runs.files import write_atomically

        stages = [stage for stage in STAGES if self._is_wanted(stage)]
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
            done[stage] = asked
            write_atomically(path, json.dumps(done, indent=2) + "\n")

    def verdict(self) -> tuple[dict[str, Any], str]:
        """(summary of the evaluation, which policy to use), also kept in the folder."""
        from s2t_ext.evaluation.advice import recommend

        if self.test is not None:
            summary = json.loads((self.output / "results" / "summary.json").read_text())
            sentence = recommend(summary)
        else:
            summary = {}
            quality = json.loads((self.output / "run" / "quality.json").read_text())
            figures = ", ".join(
                f"{name} {quality[name]:.3f}" if quality.get(name) is not None else f"no {name}"
                for name in ("net_recall", "ngram_net_recall", "harm_rate")
            )
            sentence = (
                "Use greedy until answers have been graded (--test FILE): all that is known of the "
                f"selector is how it ranks held-out rollouts ({figures})."
            )
        (self.output / "recommendation.txt").write_text(sentence + "\n")
        return summary, sentence

    def _invoke(self, stage: str, given: list[str]) -> None:
        command = self._command(stage)
        with command.make_context(stage, list(given), parent=self.context) as inner:
            command.invoke(inner)

    def _command(self, stage: str) -> Any:
        assert self.context.parent is not None
        return self.context.parent.command.commands[stage]  # type: ignore[attr-defined]

    def _method(self) -> str:
        value: str = {**DEFAULTS["distill"], **self.shared, **self.sections["distill"]}["method"]
        return value

    def _is_wanted(self, stage: str) -> bool:
        if stage == "evaluate":
            return self.test is not None
        # Of a frozen student, `distill` has calibrated on the very rollouts that greedy decodes.
        return stage != "calibrate" or self._method() != "rows" or bool(self.sections[stage])

    def _input_digest(self, stage: str) -> str:
        path = {"collect": self.output / PROMPTS_NAME, "evaluate": self.test}.get(stage)
        if not isinstance(path, Path):
            return ""
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def _arguments(self, stage: str) -> list[str]:
        """The command line of a stage."""
        command = self._command(stage)
        names = option_names(command)
        values = dict(DEFAULTS[stage])
        rate = {"collect": "share", "distill": "trigger_rate", "calibrate": "rate"}.get(stage)
        if rate is not None:
            values[rate] = self.shared.get("trigger_rate", 0.2)
        if stage == "evaluate":
            values |= dict(policy=self._policies(), teacher_threshold=self._threshold())
        values |= {k: v for k, v in self.shared.items() if k in names and k not in FIXED[stage]}
        values |= self.sections[stage]
        return arguments(command, {**values, **self._fixed(stage)})

    def _fixed(self, stage: str) -> dict[str, Any]:
        """What goes from one stage to the next."""
        folders = {name: self.output / name for name in ("collection", "run", "results")}
        prompts, selector = self.output / PROMPTS_NAME, folders["run"] / "selector"
        if stage == "collect":
            return {"prompts": prompts, "output": folders["collection"]}
        if stage == "distill":
            return {"collection": folders["collection"], "output": folders["run"]}
        trained = {"model": folders["run"] / "model"} if self._method() == "full" else {}
        if stage == "calibrate":
            some = self.output / CALIBRATION_NAME
            return {**trained, "prompts": some, "selector": selector}
        asked = {"task": self.test, "problems": self.shared.get("test_problems")}
        return {**trained, **asked, "selector": selector, "output": folders["results"]}

    def _policies(self) -> list[str]:
        local = not str(self.shared["teacher"]).startswith(("http://", "https://"))
        adapted = ["adapted"] if self._method() == "lora" else []
        return ["greedy", *adapted, "s2t-local", "s2t", *(["teacher"] if local else [])]

    def _threshold(self) -> float | None:
        """That of the selector's entropy trigger, once it is known: S2T fires at the same steps."""
        path = self.output / "run" / "selector" / "s2t_config.json"
        if not path.exists():
            return None
        found = json.loads(path.read_text()).get("calibration", {}).get("entropy")
        return None if found is None else float(found["threshold"])
