"""Trains the plan's candidates for the head, chooses one and its override margin on the held-out
rollouts, and writes the selector.

    python bench/studies/word_problems/train.py STUDENT COLLECTION OUTPUT

Prints, per head and margin: net recall, share of groups overridden and share of harmful overrides,
as `plan.md` defines them. Scores lie in [0, 1] and are trained at a temperature of 0.1: a margin of
x nats is one of x / 10 in totals. Resumable; the selector is OUTPUT/selector.
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from s2t_ext import S2TConfig, Selector
from s2t_ext.distillation.data.collection import Collection
from s2t_ext.distillation.losses import LossConfig
from s2t_ext.distillation.measure import measure
from s2t_ext.distillation.options import DistillConfig
from s2t_ext.distillation.preparation import prepare
from s2t_ext.distillation.run import TrainingRun
from s2t_ext.distillation.train import distill
from s2t_ext.selectors.parts import Projection

TEMPERATURE, HARM_LIMIT, RATE = 0.1, 0.2, 0.2
MARGINS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
HEADS = {
    "rows-last": {},
    "two-layers-12": dict(head_width=256, head_layer=12),
    "two-layers-16": dict(head_width=256, head_layer=16),
    "two-layers-20": dict(head_width=256, head_layer=20),
    "two-layers-last": dict(head_width=256),
}


@dataclass
class Line:
    """What a head does to the held-out groups at a margin in nats."""

    head: str
    margin: float
    net_recall: float
    overridden: float
    harmful: float


def config_of(head: str) -> DistillConfig:
    """The options all heads share: the teacher's distribution, no trigger head."""
    loss = LossConfig(kind="kl", kl_temperature=TEMPERATURE, trigger_weight=0.0)
    return DistillConfig(
        method="rows", loss=loss, epochs=10, warmup=0.1, weight_decay=0.05, k=8, **HEADS[head]
    )


def lines_of(head: str, totals, mask, teacher) -> list[Line]:
    """Groups [G, K] of held-out rollouts, at every margin."""
    totals = totals.masked_fill(~mask, float("-inf"))
    logprob = (teacher.masked_fill(~mask, 0) + 1e-9).log()
    corrections = int((teacher.masked_fill(~mask, -1).argmax(1) != 0).sum())
    best = totals.argmax(1)
    lead = totals.gather(1, best[:, None])[:, 0] - totals[:, 0]
    found = []
    for margin in MARGINS:
        slot = torch.where(lead > margin * TEMPERATURE, best, 0)
        gain = logprob.gather(1, slot[:, None])[:, 0] - logprob[:, 0]
        right, harmful, over = int((gain > 0).sum()), int((gain < 0).sum()), int((slot != 0).sum())
        net = (right - harmful) / corrections
        found.append(Line(head, margin, net, over / len(slot), harmful / max(over, 1)))
    return found


def _round(selector: Selector) -> None:
    """To numbers that float16 holds: half the size on disk."""
    selector.rows, selector.bias = selector.rows.half().float(), selector.bias.half().float()
    if selector.projection is not None:
        parts = vars(selector.projection).values()
        selector.projection = Projection(*(part.half().float() for part in parts))


def main(model: str, collection: str, output: str) -> None:
    """Every head in turn, then the choice."""
    folder, data = Path(output), Collection(collection)
    student = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
    lines = []
    for head in HEADS:
        config = config_of(head)
        selector = distill(student, data, folder / head, config, trigger_rate=RATE).selector
        run = TrainingRun(prepare(student, data, config), folder / head, config)
        run.train(False)  # reads what has been trained
        held_out = measure(run.parts.maker, run.parts.held_out, run._states, config)
        totals = held_out.totals(selector.prior_weight)
        for line in lines_of(head, totals, held_out.mask, held_out.teacher):
            lines.append(line)
            print(
                f"{head:16} {line.margin:.1f} net recall {line.net_recall:.3f} "
                f"overridden {line.overridden:.3f} harmful {line.harmful:.3f}",
                flush=True,
            )
    chosen = max((x for x in lines if x.harmful < HARM_LIMIT), key=lambda x: x.net_recall)
    selector = Selector.from_pretrained(folder / chosen.head / "selector", student)
    selector.decoding = replace(
        S2TConfig(k=8, trigger="entropy", step="auto"),
        override_margin=chosen.margin * TEMPERATURE,
    )
    _round(selector)
    selector.save_pretrained(folder / "selector")
    print("chosen:", json.dumps(vars(chosen)), selector.calibrations["entropy"])


if __name__ == "__main__":
    main(*sys.argv[1:])
