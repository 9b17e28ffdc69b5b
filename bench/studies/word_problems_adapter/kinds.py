"""What kinds of corrections an adapter's scores make, on the held-out rollouts of a collection.

    python bench/studies/word_problems_adapter/kinds.py STUDENT COLLECTION SELECTOR

Prints, by the kind of the teacher's choice: labelled steps, corrections, overrides towards a token
the teacher likes better, and less, and net recall.
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from s2t_ext import Selector
from s2t_ext.distillation.data.collection import Collection
from s2t_ext.distillation.losses import LossConfig, favourite
from s2t_ext.distillation.measure import measure
from s2t_ext.distillation.objective import ObjectiveMaker
from s2t_ext.distillation.options import DistillConfig
from s2t_ext.distillation.quality.overrides import override_choices
from s2t_ext.distillation.score_head import ScoreHead


def kind_of(text: str) -> str:
    """digit, word, symbol or space."""
    if any(c.isdigit() for c in text):
        return "digit"
    if not text.strip():
        return "space"
    return "word" if any(c.isalnum() or ord(c) > 127 for c in text) else "symbol"


def main(student: str, collection: str, selector: str) -> None:
    """One line per kind."""
    tokenizer = AutoTokenizer.from_pretrained(student)
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.bfloat16)
    chosen = Selector.from_pretrained(selector, model)
    head = ScoreHead(chosen.rows.shape[1], chosen.num_bins, use_prior=True)
    head.start_from(chosen)
    maker = ObjectiveMaker(chosen.adapted_model or model, head, LossConfig())
    rollouts = [t for t in Collection(collection).trajectories("held_out") if t.groups]
    held_out = measure(maker, rollouts, None, DistillConfig(k=chosen.decoding.k))
    totals, teacher = held_out.totals(chosen.prior_weight), held_out.teacher
    best = favourite(held_out.mask, teacher)
    choice = override_choices(totals, held_out.mask, chosen.decoding.override_margin)
    gain = (teacher.gather(1, choice[:, None]) - teacher[:, :1]).squeeze(1)
    ids = held_out.ids.gather(1, best[:, None]).squeeze(1).tolist()
    kinds = [kind_of(tokenizer.decode([token])) for token in ids]
    for kind in sorted(set(kinds)):
        rows = torch.tensor([k == kind for k in kinds])
        corrections = int((best[rows] != 0).sum())
        better, worse = int((gain[rows] > 0).sum()), int((gain[rows] < 0).sum())
        net = (better - worse) / max(corrections, 1)
        print(f"{kind:7} {int(rows.sum()):5} {corrections:5} {better:5} {worse:5} {net:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
