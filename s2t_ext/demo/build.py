"""Makes the demo's models: `python -m s2t_ext.demo.build WORK_FOLDER`.

Pretrains a student and a teacher on generated problems, collects the student's rollouts with the
teacher's labels, distils a selector, calibrates it on the dev split, and copies the result into the
package. Stages that WORK_FOLDER already holds are not done again. A quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from s2t_ext.analysis.calibration import calibrate
from s2t_ext.config import S2TConfig
from s2t_ext.demo import ASSETS
from s2t_ext.demo.pretrain import Recipe, greedy_accuracy, make_tokenizer, pretrain
from s2t_ext.demo.problems import problems
from s2t_ext.distillation.data.collect import collect
from s2t_ext.distillation.losses import LossConfig
from s2t_ext.distillation.options import DistillConfig
from s2t_ext.distillation.train import distill
from s2t_ext.teachers.base import Teacher

#: In the files that ship, instead of the folder it was built in.
STUDENT_NAME = "s2t_ext-demo-student"

STUDENT = Recipe(layers=2, width=64, heads=4, steps=800, batch=48, learning_rate=8e-3)
TEACHER = Recipe(layers=3, width=128, heads=4, steps=1800, batch=48, learning_rate=5e-3)

#: Prompts of the distill split that are rolled out, once greedily each.
PROMPTS = 4000
#: Share of the steps at which the demo's trigger fires, chosen on the dev split: the results of the
#: additions and subtractions, which are the uncertain steps, are 12 % of a solution.
TRIGGER_RATE = 0.12

DISTILL = DistillConfig(
    method="lora",
    # The student is right in five of six groups: with the prior in the loss, the scores learn
    # little.
    prior="fitted",
    loss=LossConfig(hinge_weight=0.0, base_kl_weight=0.02),
    epochs=6,
    batch_size=8,
    learning_rate=3e-3,
    head_learning_rate=3e-3,
    lora_dropout=0.0,
    checkpoint_every=1000,
)

#: The adapter learns at a rate at which it no longer proposes well, so the base model proposes.
DECODING = S2TConfig(k=8, trigger="entropy", warmup_steps=0, proposer="base")


def build(work: Path) -> None:
    """All stages; every one is skipped if its result is in `work`."""
    tokenizer = make_tokenizer()
    student = _pretrained(work / "student", STUDENT, tokenizer)
    teacher = _pretrained(work / "teacher", TEACHER, tokenizer)
    prompts = [p.prompt for p in itertools.islice(problems("distill", 0), PROMPTS)]
    collection = collect(
        student,
        tokenizer,
        Teacher.from_model(teacher, tokenizer),
        prompts,
        work / "collection",
        max_new_tokens=56,
        batch_size=100,
        share=0.15,
        use_chat_template=False,
    )
    print(json.dumps(collection.summary(), indent=2), flush=True)
    result = distill(student, collection, work / "distill", DISTILL, decoding=DECODING)
    assert result.quality is not None and result.selector is not None
    print(json.dumps(result.quality.to_dict(), indent=2), flush=True)
    selector = result.selector
    dev = [p.prompt for p in itertools.islice(problems("dev", 0), 128)]
    calibrate(
        LlamaForCausalLM.from_pretrained(work / "student", dtype=torch.float32).eval(),
        tokenizer,
        dev,
        rate=TRIGGER_RATE,
        selector=selector,
        max_new_tokens=56,
        batch_size=64,
        use_chat_template=False,
    )
    selector.save_pretrained(work / "selector")


def install(work: Path, assets: Path = ASSETS) -> None:
    """Copies the models into the package, in bf16; replaces what is there."""
    shutil.rmtree(assets, ignore_errors=True)
    for name in ("student", "teacher"):
        model = LlamaForCausalLM.from_pretrained(work / name, dtype=torch.bfloat16)
        model.save_pretrained(assets / name)
    for name in ("student", "teacher"):
        make_tokenizer().save_pretrained(assets / name)
    shutil.copytree(work / "selector", assets / "selector")
    (assets / "selector" / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    for name, path in (("s2t_config.json", "base_model"), ("adapter_config.json", "")):
        file = assets / "selector" / name
        content = json.loads(file.read_text())
        if path:
            content[path]["name"] = STUDENT_NAME
        else:
            content["base_model_name_or_path"] = STUDENT_NAME
        file.write_text(json.dumps(content, indent=2) + "\n")


def _pretrained(
    folder: Path, recipe: Recipe, tokenizer: PreTrainedTokenizerFast
) -> LlamaForCausalLM:
    if not (folder / "model.safetensors").exists():
        model = pretrain(recipe, tokenizer)
        # The package ships bf16: everything after this stage sees the weights as shipped.
        model.to(torch.bfloat16).save_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    dev = list(itertools.islice(problems("dev", 0), 128))
    print(f"{folder.name}: dev accuracy {greedy_accuracy(model, tokenizer, dev):.3f}", flush=True)
    return model


def main(arguments: Any = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Makes the demo's models.")
    parser.add_argument("work", type=Path, help="Folder of the intermediate results.")
    parser.add_argument(
        "--install", action="store_true", help="Copy the result into the package, where it ships."
    )
    options = parser.parse_args(arguments)
    build(options.work)
    if options.install:
        install(options.work)


if __name__ == "__main__":
    main()
