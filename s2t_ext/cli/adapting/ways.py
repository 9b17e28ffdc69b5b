"""What `adapt` learns from: a teacher's labels, or whole answers that are known to be right.

Each way says which stages it has, with which options, and what its figures mean.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from s2t_ext.cli.adapting.recipe import STAGES
from s2t_ext.cli.adapting.task_files import CALIBRATION_NAME, PROMPTS_NAME, QUESTIONS_NAME
from s2t_ext.cli.collecting.answers import NO_TEACHER
from s2t_ext.cli.teachers import is_server


class Way:
    """One of `WAYS`.

    Args:
        output: Folder of the run.
        options: Those for all commands.
        sections: Those of each command.
    """

    #: Share of the steps to choose at.
    trigger_rate: ClassVar[float]
    #: What a stage is given that neither the recipe nor the command line says.
    defaults: ClassVar[dict[str, dict[str, Any]]]
    #: Options of a stage that no recipe gives.
    fixed: ClassVar[dict[str, set[str]]]
    #: The option that is the trigger rate.
    rates: ClassVar[dict[str, str]]

    def __init__(
        self, output: Path, options: dict[str, Any], sections: dict[str, dict[str, Any]]
    ) -> None:
        self.output, self.options, self.sections = output, options, sections
        self.distill = {**self.defaults["distill"], **options, **sections["distill"]}

    def check(self) -> None:
        """Raises ValueError for options that this way cannot use."""

    def has_stage(self, stage: str, section: dict[str, Any], is_tested: bool) -> bool:
        """Whether a stage is run."""
        raise NotImplementedError

    def input_of(self, stage: str, test: Path | str | None) -> Path | str | None:
        """The file whose content a stage depends on."""
        raise NotImplementedError

    def between(self, stage: str, test: Path | str | None) -> dict[str, Any]:
        """What goes from one stage to the next, and what this way decides."""
        raise NotImplementedError

    def policies(self) -> dict[str, Any]:
        """What `evaluate` compares."""
        raise NotImplementedError

    def verdict(self, summary: dict[str, Any] | None) -> str:
        """Which policy to use, in a sentence; `summary` is the evaluation's, if any."""
        raise NotImplementedError


#: Options of `calibrate` about who chooses and who judges it.
_JUDGING = {"judge", "chooser", "teacher_model_name", "teacher_cache_dir"}


class FromLabels(Way):
    """The student rolls out, the teacher labels steps, a selector learns from the labels."""

    trigger_rate = 0.2
    defaults: ClassVar = {
        "collect": dict(steps="entropy", k=8, held_out=0.2, held_out_by="prompt"),
        "distill": dict(method="rows"),
        "calibrate": {},
        "evaluate": dict(teacher_trigger="entropy"),
    }
    fixed: ClassVar = {
        "collect": {"prompts", "task", "problems", "output", "json", "keep"},
        "distill": {"collection", "output", "json"},
        # `distill` finds the margin.
        "calibrate": _JUDGING | {"harm_limit", "prompts", "selector", "output", "json"},
        "evaluate": {"task", "problems", "selector", "output", "json"},
    }
    rates: ClassVar = {"collect": "share", "distill": "trigger_rate", "calibrate": "rate"}

    def check(self) -> None:
        """See `Way.check`."""
        if self.sections["distill"].get("objective", "selector") != "selector":
            raise ValueError("--config: distill must train a selector here, got another objective")

    @property
    def method(self) -> str:
        """Of `distill`."""
        return str(self.distill["method"])

    def has_stage(self, stage: str, section: dict[str, Any], is_tested: bool) -> bool:
        """See `Way.has_stage`."""
        if stage == "evaluate":
            return is_tested
        # Of a frozen student, `distill` has calibrated on the very rollouts that greedy decodes.
        return stage != "calibrate" or self.method != "rows" or bool(section)

    def input_of(self, stage: str, test: Path | str | None) -> Path | str | None:
        """See `Way.input_of`."""
        return {"collect": self.output / PROMPTS_NAME, "evaluate": test}.get(stage)

    def between(self, stage: str, test: Path | str | None) -> dict[str, Any]:
        """See `Way.between`."""
        folders = {name: self.output / name for name in ("collection", "run", "results")}
        selector = folders["run"] / "selector"
        if stage == "collect":
            return {"prompts": self.output / PROMPTS_NAME, "output": folders["collection"]}
        if stage == "distill":
            return {"collection": folders["collection"], "output": folders["run"]}
        trained = {"model": folders["run"] / "model"} if self.method == "full" else {}
        if stage == "calibrate":
            some = self.output / CALIBRATION_NAME
            return {**trained, "prompts": some, "selector": selector}
        asked = {"task": test, "problems": self.options.get("test_problems")}
        return {**trained, **asked, "selector": selector, "output": folders["results"]}

    def policies(self) -> dict[str, Any]:
        """See `Way.policies`; S2T fires at the steps of the selector's entropy trigger."""
        local = [] if is_server(str(self.options["teacher"])) else ["teacher"]
        adapted = ["adapted"] if self.method == "lora" else []
        path, threshold = self.output / "run" / "selector" / "s2t_config.json", None
        if path.exists():
            found = json.loads(path.read_text()).get("calibration", {}).get("entropy")
            threshold = None if found is None else float(found["threshold"])
        policies = ["greedy", *adapted, "s2t-local", "s2t", *local]
        return {"policy": policies, "teacher_threshold": threshold}

    def verdict(self, summary: dict[str, Any] | None) -> str:
        """See `Way.verdict`."""
        from s2t_ext.evaluation.advice import recommend

        if summary is not None:
            return recommend(summary)
        quality = json.loads((self.output / "run" / "quality.json").read_text())
        figures = ", ".join(
            f"{name} {quality[name]:.3f}" if quality.get(name) is not None else f"no {name}"
            for name in ("net_recall", "ngram_net_recall", "harm_rate")
        )
        return (
            "Use greedy until answers have been graded (--test FILE): all that is known of the "
            f"selector is how it ranks held-out rollouts ({figures})."
        )


class FromAnswers(Way):
    """The teacher answers, the key keeps what is right, an adapter of the student learns it, and
    chooses among the student's own candidates.
    """

    trigger_rate = 0.3
    #: Those of the study that passed, bench/studies/word_problems_answers.
    defaults: ClassVar = {
        "collect": dict(keep="right", held_out=0.1, held_out_by="prompt"),
        "distill": dict(epochs=2, learning_rate=5e-4, lora_r=1, lora_alpha=32, sft_weight=1.0),
        "calibrate": {},
        "evaluate": {},
    }
    #: Of `collect`: what only labels have.
    _LABELS: ClassVar = {"steps", "share", "k", "entropy_threshold", "teacher_topk"}
    _POLICY: ClassVar = {"policy", "selector", "trigger", "threshold"}
    _OF_SELECTORS: ClassVar = {"method", "objective", "trigger_rate", "harm_limit", "start"}
    fixed: ClassVar = {
        "collect": _LABELS
        | _POLICY
        | {"model", "teacher", "teacher_model_name", "teacher_cache_dir"}
        | {"prompts", "task", "problems", "output", "json"},
        "distill": _OF_SELECTORS | {"collection", "output", "json"},
        "calibrate": _JUDGING | {"prompts", "selector", "trigger", "output", "json"},
        "evaluate": {"task", "problems", "selector", "teacher", "output", "json"},
    }
    rates: ClassVar = {"calibrate": "rate"}
    #: The adapter that chooses, and the adapter that writes alone.
    _CHOOSES, _WRITES = "s2t@adapter", "teacher@adapter"

    def check(self) -> None:
        """See `Way.check`."""
        teacher = str(self.options["teacher"])
        if is_server(teacher):
            raise ValueError(
                f"--learn-from answers must have a --teacher that is a model, got {teacher}"
            )

    def has_stage(self, stage: str, section: dict[str, Any], is_tested: bool) -> bool:
        """See `Way.has_stage`."""
        return stage != "evaluate" or is_tested

    def input_of(self, stage: str, test: Path | str | None) -> Path | str | None:
        """See `Way.input_of`."""
        return {"collect": self.output / QUESTIONS_NAME, "evaluate": test}.get(stage)

    def between(self, stage: str, test: Path | str | None) -> dict[str, Any]:
        """See `Way.between`."""
        collection, run = self.output / "answers", self.output / "run"
        questions = self.output / QUESTIONS_NAME
        if stage == "collect":
            count = len(questions.read_text("utf-8").splitlines()) if questions.exists() else 1
            answers = {"model": self.options["teacher"], "teacher": NO_TEACHER}
            return {**answers, "task": questions, "problems": count, "output": collection}
        if stage == "distill":
            kind = {"method": "lora", "objective": "tokens"}
            return {**kind, "collection": collection, "output": run}
        if stage == "calibrate":
            judged: dict[str, Any] = {}
            if "harm_limit" in {**self.options, **self.sections["calibrate"]}:
                judged = {"chooser": run / "adapter", "judge": self.options["teacher"]}
            some = self.output / CALIBRATION_NAME
            return {**judged, "prompts": some, "output": self._threshold_path}
        asked = {"task": test, "problems": self.options.get("test_problems")}
        return {**asked, "teacher": run / "adapter", "output": self.output / "results"}

    def policies(self) -> dict[str, Any]:
        """See `Way.policies`."""
        found = self._calibrated()
        asked = {"teacher_threshold": found["threshold"]} if found else {}
        margin = (
            f":override_margin={found['override_margin']}" if "override_margin" in found else ""
        )
        policies = ["greedy", self._CHOOSES + margin, self._WRITES]
        return {"policy": policies, "teacher_trigger": "entropy", **asked}

    def verdict(self, summary: dict[str, Any] | None) -> str:
        """See `Way.verdict`."""
        from s2t_ext.evaluation.advice import recommend

        assert summary is not None  # questions with answers always leave a test
        sentence, found = recommend(summary, own=(self._CHOOSES, self._WRITES)), self._calibrated()
        margin = (
            f" with margin {found['override_margin']:.3g}" if "override_margin" in found else ""
        )
        return (
            f'{sentence[:-1]} ({self._CHOOSES}: adapter_teacher("{self.output / "run/adapter"}", '
            f"model) choosing at entropy above {found['threshold']:.3g}{margin}; {self._WRITES}: "
            "the adapter alone)."
        )

    @property
    def _threshold_path(self) -> Path:
        return self.output / "threshold.json"

    def _calibrated(self) -> dict[str, Any]:
        """What `calibrate` has found; nothing before it has run."""
        if not self._threshold_path.exists():
            return {}
        found: dict[str, Any] = json.loads(self._threshold_path.read_text())
        return found


WAYS: dict[str, type[Way]] = {"labels": FromLabels, "answers": FromAnswers}
assert all(set(way.fixed) == set(way.defaults) == set(STAGES) for way in WAYS.values())
