"""How `--help` looks: options in sections, whole names, at most 80 columns."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from s2t_ext.cli.options import DECODING, FORMER_NAMES, INPUT, LABELS, MODELS, OUTPUT, TEACHER
from s2t_ext.runs.given_files import home_for_tilde

TRAINING = "Training"
GRADING = "Grading"
GENERAL = "General"
SECTIONS = (MODELS, TEACHER, INPUT, DECODING, LABELS, TRAINING, GRADING, OUTPUT)
#: Columns of the names; longer ones have a line of their own.
_NAMES = 26

#: Sections of options that name none themselves, by the option or by command and option.
_SECTION_OF = {
    **dict.fromkeys(("model", "selector", "start", "assets"), MODELS),
    **dict.fromkeys(("teacher", "teacher_trigger", "teacher_threshold", "judge"), TEACHER),
    **dict.fromkeys(
        ("prompt", "prompts", "system", "use_chat_template", "task", "problems", "split"), INPUT
    ),
    **dict.fromkeys(("config", "test", "test_problems", "calibration_problems"), INPUT),
    **dict.fromkeys(("learn_from",), INPUT),
    **dict.fromkeys(("adapt dtype",), MODELS),
    **dict.fromkeys(("chooser",), DECODING),
    **dict.fromkeys(("collection", "held_out", "held_out_by", "rollouts_from"), INPUT),
    **dict.fromkeys(("rollouts", "temperature", "top_p", "max_new_tokens", "seed"), DECODING),
    **dict.fromkeys(("policy", "k", "rate", "trigger", "trigger_rate", "harm_limit"), DECODING),
    **dict.fromkeys(("local_trigger", "local_threshold", "batch_size"), DECODING),
    **dict.fromkeys(
        ("collect k", "share", "steps", "entropy_threshold", "teacher_topk", "keep"), LABELS
    ),
    **dict.fromkeys(("method", "loss", "epochs", "accumulation", "prior"), TRAINING),
    **dict.fromkeys(("learning_rate", "head_learning_rate", "lora_dropout"), TRAINING),
    **dict.fromkeys(("head_width", "head_layer"), TRAINING),
    **dict.fromkeys(("objective", "prefix_kl", "prefix_kl_weight", "sft_weight"), TRAINING),
    **dict.fromkeys(("lora_r", "lora_alpha", "lora_targets", "process_timeout"), TRAINING),
    **dict.fromkeys(("distill batch_size", "distill seed"), TRAINING),
    **dict.fromkeys(("output", "html", "plot", "report_to", "traces", "merge"), OUTPUT),
    **dict.fromkeys(("code_timeout", "code_memory_mb"), GRADING),
    **dict.fromkeys(("push_to_hub", "private"), OUTPUT),
}  # fmt: skip


def section_of(command: str, parameter: Any) -> str:
    """The section of an option."""
    named = getattr(parameter, "rich_help_panel", None)
    own = _SECTION_OF.get(f"{command} {parameter.name}", _SECTION_OF.get(parameter.name))
    return named or own or GENERAL


class Command(TyperCommand):
    """A command whose help has sections, that takes the earlier spellings of options too, and reads
    `--option=~/x` as shells read `--option ~/x`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        renamed = []
        for argument in args:
            name, equals, value = argument.partition("=")
            if name.startswith("--"):
                value = home_for_tilde(value)
            renamed.append(FORMER_NAMES.get(name, name) + equals + value)
        return super().parse_args(ctx, renamed)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        sections |= {name: [] for name in (*SECTIONS, GENERAL)}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            is_argument = parameter.param_type_name == "argument"
            section = "Arguments" if is_argument else section_of(str(self.name), parameter)
            sections[section].append(record)
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records, col_max=_NAMES)


class Group(TyperGroup):
    """The program, whose commands are listed in sections, each with its first sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            if not command.hidden:
                text = str(command.help).split("\n\n")[0].replace("\n", " ")
                sections.setdefault(command.rich_help_panel, []).append((name, text))
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records, col_max=_NAMES)

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order they were registered, which is that of use."""
        return list(self.commands)
