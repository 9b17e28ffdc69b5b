"""Which options train the best score rows? Cross-validated over the templates of training.

    python bench/cross_validate_rows.py COLLECTION RUN

COLLECTION: labelled rollouts of gsm_symbolic's train split (`collect --task gsm_symbolic`); RUN:
the folder of a `distill --method rows` run on it, whose cached hidden states are read, so an option
takes seconds. Templates are dealt into `FOLDS` folds; each is measured by rows trained on the
others. Prints, per option: agreement@1 with the teacher at the prior weight that was trained (mean
over the folds) and at the one that is best on the very groups it is measured on, that of the
student's first candidate, and that on the groups trained on. With --curve, instead, what `CURVE`
gets from one, two and three of the four folds, in equally many steps.
"""

import argparse
import itertools
import random
from pathlib import Path

import torch
import torch.nn.functional as F

from s2t_ext.distillation.data.collection import Collection
from s2t_ext.distillation.features import stored_states
from s2t_ext.distillation.losses import LossConfig, group_loss
from s2t_ext.distillation.packing import pack
from s2t_ext.distillation.quality.held_out import HeldOut
from s2t_ext.distillation.score_head import ScoreHead
from s2t_ext.evaluation.tasks import load_task

FOLDS, DECODED, BATCH, EPOCHS = 4, 8, 128, 6
LOSSES = {
    "top-1, hinge and KL (default)": LossConfig(),
    "top-1 and KL, no hinge": LossConfig(hinge_weight=0.0),
    "KL": LossConfig(kind="kl"),
    "pairwise": LossConfig(kind="pairwise"),
}
RATES = (1e-4, 3e-4, 1e-3)
CURVE = ("KL", 1e-4)


def load(collection, run):
    """Per fold: (states [G, K, D], student log-probabilities, mask, teacher probabilities)."""
    states = stored_states(run, collection.digest())
    trajectories = [t for t in collection.trajectories("train") if t.groups]
    settings = collection.manifest["settings"]
    problems = load_task("gsm_symbolic", settings["prompts"], seed=settings["seed"], split="train")
    template = {t.key: problems[int(t.key) // settings["rollouts"]].group for t in trajectories}
    names = sorted(set(template.values()))
    random.Random(0).shuffle(names)
    width = max(len(g.candidates) for t in trajectories for g in t.groups)
    folds = []
    for fold in range(FOLDS):
        parts = []
        for t in trajectories:
            if names.index(template[t.key]) % FOLDS == fold:
                batch, hidden = pack([t]), states[f"{t.key}.candidates"]
                missing = width - hidden.shape[1]
                columns = (batch.student_logprobs, batch.candidate_mask, batch.teacher_probs)
                parts.append(
                    (F.pad(hidden, (0, 0, 0, missing)), *(F.pad(c, (0, missing)) for c in columns))
                )
        folds.append(tuple(torch.cat(column) for column in zip(*parts, strict=True)))
    return folds


def train(data, loss, rate, epochs=EPOCHS, seed=0):
    """Score rows and prior weight; Adam, the rate falling linearly to 0."""
    hidden, logprobs, mask, teacher = data
    torch.manual_seed(seed)
    scale = float(hidden[:, 0].norm(dim=1).mean())
    head = ScoreHead(hidden.shape[2], hidden_scale=scale, seed=seed)
    weights = [head.rows, head.bias, head.prior_weight]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    groups = hidden.shape[0]
    total = epochs * -(-groups // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
    for _ in range(epochs):
        for own in torch.randperm(groups).split(BATCH):
            totals = head.totals(hidden[own], logprobs[own])
            value = group_loss(totals, mask[own], teacher[own], loss) / len(own)
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
    return head


@torch.no_grad()
def measured(head, data):
    """What the first `DECODED` candidates of the groups get."""
    hidden, logprobs, mask, teacher = (column[:, :DECODED] for column in data)
    none = torch.zeros(0)
    return HeldOut(head.scores(hidden), logprobs, mask, teacher, none, none, none)


def joined(parts):
    """Groups of several folds together."""
    names = ("scores", "logprobs", "mask", "teacher", "trigger", "entropy", "kl")
    return HeldOut(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def cross_validated(folds, loss, rate, share):
    """All folds, each by rows trained on every choice of `share` of the other ones: (what the held
    out groups get, mean trained prior weight, mean agreement on the groups trained on).
    """
    parts, own, weights = [], [], []
    for fold in range(FOLDS):
        rest = [i for i in range(FOLDS) if i != fold]
        for others in itertools.combinations(rest, share):
            chosen = [folds[i] for i in others]
            data = tuple(torch.cat(column) for column in zip(*chosen, strict=True))
            head = train(data, loss, rate, EPOCHS * (FOLDS - 1) // share)
            weights.append(float(head.prior_weight.detach()))
            parts.append(measured(head, folds[fold]))
            own.append(measured(head, data).quality(weights[-1], 0.0).agreement)
    return joined(parts), sum(weights) / len(weights), sum(own) / len(own)


def row(folds, name, loss, rate, share=FOLDS - 1):
    """One line of the table."""
    whole, weight, own = cross_validated(folds, loss, rate, share)
    trained = whole.quality(weight, 0.0)
    best = whole.quality(whole.best_prior_weight(weight), 0.0)
    return (
        f"| {name} | {rate:.0e} | {trained.agreement:.3f} ({weight:.2f}) | "
        f"{best.agreement:.3f} | {best.student_agreement:.3f} | {own:.3f} |"
    )


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("collection", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--curve", action="store_true", help="by amount of data, of one option")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    folds = load(Collection(options.collection), options.run)
    print(f"groups in each fold: {[len(fold[0]) for fold in folds]}")
    first = "trained on" if options.curve else "loss"
    print(f"| {first} | rate | trained weight | best weight | student | on its own groups |")
    print("|---|---|---|---|---|---|")
    if options.curve:
        name, rate = CURVE
        for share in range(1, FOLDS):
            label = f"{share} of {FOLDS} folds"
            print(row(folds, label, LOSSES[name], rate, share), flush=True)
        return
    for (name, loss), rate in itertools.product(LOSSES.items(), RATES):
        print(row(folds, name, loss, rate), flush=True)


if __name__ == "__main__":
    main()
