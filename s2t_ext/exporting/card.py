"""The selector card: where a selector comes from and what it was measured to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from s2t_ext.distillation.data.collection import MANIFEST_NAME
from s2t_ext.distillation.train import QUALITY_NAME
from s2t_ext.runs.files import write_atomically
from s2t_ext.runs.shipped import shipped_folder
from s2t_ext.runs.statistics import mcnemar, wilson
from s2t_ext.selectors.selector import Selector

CARD_NAME = "README.md"

_ROWS = (
    ("net_recall", "net recall: (right - harmful overrides) / corrections"),
    ("harm_rate", "harmful share of the overrides"),
    ("teacher_gain", "teacher's log-probability gained per step, nats"),
    ("override_margin", "override margin that these are measured with"),
    ("ngram_net_recall", "net recall of n-grams of the last words, without hidden states"),
    ("agreement", "agreement with the teacher"),
    ("ngram_agreement", "the n-grams'"),
    ("student_agreement", "the student's own top 1"),
    ("score_agreement", "the score without the prior term"),
    ("spearman", "rank correlation with the teacher"),
    ("margin", "margin of the teacher's favourite"),
    ("trigger_auc", "AUC of the learned trigger"),
    ("entropy_auc", "AUC of the entropy"),
    ("trigger_recall", "top-divergence steps found by the learned trigger"),
    ("entropy_recall", "the same, by entropy, at the same rate"),
)


_STEPS = {
    "kl": "KL(student || teacher)",
    "entropy": "entropy",
    "either": "KL(student || teacher) or the highest entropy",
}
_CHOOSERS = {"local": "selector", "teacher": "teacher", "takeover": "teacher alone"}


_USE = """# {name} with Select-to-Think

This folder decodes with the selector beside its weights ([s2t_ext](https://arxiv.org/abs/2604.26940)):

```python
# pip install s2t_ext
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
inputs = tokenizer("...", return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=256)
print(tokenizer.decode(output[0], skip_special_tokens=True))
```

`transformers serve FOLDER --trust-remote-code` serves it. Without `trust_remote_code` it is a plain
model.
"""


_USE_SELECTOR = """```python
# pip install s2t_ext
import s2t_ext
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{base}")
tokenizer = AutoTokenizer.from_pretrained("{base}")
selector = s2t_ext.Selector.from_pretrained("THIS FOLDER", model)
inputs = tokenizer("...", return_tensors="pt")
model = selector.adapted_model or model
output = s2t_ext.generate(model, **inputs, selector=selector, max_new_tokens=256)
print(tokenizer.decode(output[0], skip_special_tokens=True))
```
"""


def _verdict(quality: dict[str, Any]) -> str:
    """Whether the selector is better than no selector, as far as these groups can tell."""
    groups, won, lost = quality["groups"], quality["gained"], quality["lost"]
    share = wilson(round(quality["agreement"] * groups), groups)
    p = mcnemar(won, lost)
    if p >= 0.05:
        words = "not distinguishable from the student's own first candidate on these groups"
    else:
        better = "better" if won > lost else "worse"
        words = f"{better} than the student's own first candidate on these groups"
    return (
        f"**It agrees with the teacher in {share.value:.0%} of the groups (95 % interval "
        f"{share.low:.0%} to {share.high:.0%}), the student's own first candidate in "
        f"{quality['student_agreement']:.0%}: {won} groups gained, {lost} lost, McNemar p = "
        f"{p:.2g}; {words}.** Groups of one answer are not independent, which makes the true "
        "interval wider. Whether answers get better is for `s2t-ext evaluate` to say."
    )


def write_card(selector: str | Path, run: str | Path, collection: str | Path) -> Path:
    """Writes `README.md` in a selector's folder from the files of its run; returns the path."""
    selector, run = Path(selector), Path(run)
    settings = json.loads((Path(collection) / MANIFEST_NAME).read_text())["settings"]
    config = json.loads((selector / "s2t_config.json").read_text())
    quality = json.loads((run / QUALITY_NAME).read_text())
    base, teacher = config["base_model"].get("name", ""), settings["teacher"].get("name", "")
    lines = [
        "---",
        "library_name: s2t_ext",
        *([f"base_model: {base}"] if "/" in base else []),  # a repository, not a folder's name
        "tags: [select-to-think]",
        "---",
        "",
        f"# Select-to-Think selector for {Path(base).name or 'a causal language model'}",
        "",
        f"Distilled from {Path(teacher).name or 'a teacher'} with s2t_ext "
        f"{config['library_version']}: {_data(settings)}.",
        "",
        _USE_SELECTOR.format(base=base if "/" in base else "PATH OF THE BASE MODEL"),
    ]
    if quality:
        lines += [
            f"Measured on {quality['groups']} held-out groups and {quality['steps']} steps; "
            f"overrides on the {quality['groups_at_trigger']} groups at which the entropy trigger "
            "fires. The prior weight and the margin were chosen afterwards, on these groups too.",
            "",
            _verdict(quality),
            "",
            "| | |",
            "|---|---|",
            *(
                f"| {text} | {quality[name]:.3f} |"
                for name, text in _ROWS
                if quality[name] is not None
            ),
            f"| overrides where the trigger fires / those that end the answer | "
            f"{quality['overrides']} / {quality['ending_overrides']} |",
            f"| groups gained / lost against the student's top 1 | {quality['gained']} / "
            f"{quality['lost']} |",
            "",
        ]
    for name, calibration in config.get("calibration", {}).items():
        lines.append(
            f"* trigger `{name}`: threshold {calibration['threshold']:.4g}, "
            f"{calibration['rate']:.2%} of {calibration['tokens']} steps"
        )
    path = selector / CARD_NAME
    write_atomically(path, "\n".join(lines) + "\n")
    return path


def selector_card(selector: Any) -> str:
    """The card in a selector's folder; empty without one."""
    if not isinstance(selector, (str, Path)):
        return ""
    path = Path(shipped_folder(selector) or selector) / CARD_NAME
    return path.read_text("utf-8") if path.is_file() else ""


def model_card(selector: Selector, card: str) -> str:
    """`README.md` of an exported model.

    Args:
        selector: What the model decodes with.
        card: The selector's own card, or nothing.
    """
    base = selector.base_model.get("name", "")
    data = ModelCardData(
        base_model=base if "/" in base else None,  # a repository, not a folder's name
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["custom_generate", "select-to-think"],
    )
    about = ModelCard(card).text.strip() if card.startswith("---") else card
    return (
        f"---\n{data.to_yaml()}\n---\n\n{_USE.format(name=Path(base).name)}\n{about}".strip() + "\n"
    )


def _data(settings: dict[str, Any]) -> str:
    """What a collection holds, in words."""
    if "source_sha256" in settings:
        return "groups collected by the released research code"
    steps = settings.get("steps", "kl")
    chosen = f"the {settings['share']:.0%} of steps with the highest {_STEPS[steps]}"
    if (threshold := settings.get("entropy_threshold")) is not None:
        chosen = f"the steps with an entropy above {threshold:.3g} nats"
        if steps == "either":
            chosen += f" and the {settings['share']:.0%} with the highest {_STEPS['kl']}"
    decoding = settings.get("decoding")
    rollouts = ""
    if decoding is not None:
        rollouts = f" of rollouts with choices of the {_CHOOSERS[decoding['select']]}"
    return f"{settings['prompts']} prompts, {settings['k']} candidates at {chosen}{rollouts}"
