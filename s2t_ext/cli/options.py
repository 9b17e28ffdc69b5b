"""Options that several commands share, by the names of the functions' arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

MODELS = "Models"
TEACHER = "Teacher"
INPUT = "Input"
DECODING = "Decoding"
LABELS = "Labels"
OUTPUT = "Output"

TriggerName = Literal["entropy", "margin", "head", "kl", "random", "always", "never"]
SelectMode = Literal["local", "teacher", "takeover"]
ProposerName = Literal["adapted", "base"]
StepMode = Literal["auto", "tree", "expand"]
CalibratedTrigger = Literal["entropy", "margin", "head"]
DtypeName = Literal["float32", "bfloat16", "float16"]
SplitName = Literal["held_out", "train", "all"]
CollectedSteps = Literal["kl", "entropy", "either"]
HeldOutBy = Literal["group", "prompt"]
KeptAnswers = Literal["right", "majority"]
LearnFrom = Literal["answers", "labels"]
RolloutPolicy = Literal["greedy", "sampling", "s2t", "s2t-local"]
MethodName = Literal["lora", "rows", "full"]
ObjectiveName = Literal["selector", "tokens"]
PrefixKlName = Literal["base", "teacher", "none"]
LossName = Literal["top1", "kl", "pairwise"]
PriorName = Literal["trained", "fitted", "none"]

Model = Annotated[
    str,
    typer.Option(
        help="The student: model folder or hub repository.", rich_help_panel=MODELS, metavar="MODEL"
    ),
]
SelectorPath = Annotated[
    str | None,
    typer.Option(
        help="Selector folder or hub repository.", rich_help_panel=MODELS, metavar="SELECTOR"
    ),
]
Dtype = Annotated[DtypeName, typer.Option(help="Of the weights.", rich_help_panel=MODELS)]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        help="Spread the model over devices, as transformers does: auto, balanced, cuda:1, ...",
        rich_help_panel=MODELS,
        metavar="MAP",
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run model code that its repository brings.",
        rich_help_panel=MODELS,
    ),
]
UseChatTemplate = Annotated[bool, typer.Option(help="Wrap prompts in the chat template.")]
SystemPrompt = Annotated[
    str | None, typer.Option(help="Instructions before the prompt.", metavar="TEXT")
]
TeacherPath = Annotated[
    str | None,
    typer.Option(
        help="Larger model: folder, hub repository, the address of a completions server "
        "(http://...); or an adapter that ships (s2t_ext/NAME).",
        rich_help_panel=TEACHER,
        metavar="TEACHER",
    ),
]
TeacherModelName = Annotated[
    str | None,
    typer.Option(help="The model's name at a server.", rich_help_panel=TEACHER, metavar="NAME"),
]
TeacherCacheDir = Annotated[
    Path | None,
    typer.Option(help="Folder that keeps a server's answers.", rich_help_panel=TEACHER),
]
Trigger = Annotated[
    TriggerName | None,
    typer.Option(help="When a step needs a choice.", rich_help_panel=DECODING),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        help="Of the trigger; default: the selector's calibrated one.",
        rich_help_panel=DECODING,
        metavar="NUMBER",
    ),
]
Select = Annotated[
    SelectMode | None,
    typer.Option(
        help="Who chooses: the selector, the teacher among the candidates, or the teacher alone.",
        rich_help_panel=DECODING,
    ),
]
Candidates = Annotated[
    int | None,
    typer.Option("--k", help="Candidates per choice.", rich_help_panel=DECODING, metavar="K"),
]
Proposer = Annotated[
    ProposerName | None,
    typer.Option(
        help="Whose logits propose: base for proposal-preserving selection.",
        rich_help_panel=DECODING,
    ),
]
WarmupSteps = Annotated[
    int | None,
    typer.Option(help="No choice in the first steps.", rich_help_panel=DECODING, metavar="N"),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print JSON instead of a table.", rich_help_panel=OUTPUT),
]

#: Earlier spellings of options, which still work.
FORMER_NAMES = {
    "--chat": "--use-chat-template",
    "--no-chat": "--no-use-chat-template",
    "--sample": "--do-sample",
    "--teacher-name": "--teacher-model-name",
    "--teacher-cache": "--teacher-cache-dir",
}
