"""How often do score rows agree with the teacher at the steps where an entropy trigger fires?

    python bench/agreement_at_trigger.py COLLECTION RUN SELECTOR...

COLLECTION: labelled rollouts, `collect --steps either` for all of these steps to carry a label;
RUN: the folder of a `distill --method rows` run on it, whose cached hidden states are read;
SELECTOR: folders of selectors without adapter. Prints, of the held-out groups where the trigger
fires (above `--threshold` nats, after the warmup) and of the others: agreement@1 at the selector's
prior weight, which `distill` may have chosen on these groups, and that of the student's first
candidate.
"""

import argparse
from pathlib import Path

import torch

from s2t_ext import S2TConfig, Selector, ops
from s2t_ext.distillation.data.collection import Collection
from s2t_ext.distillation.features import CachedStates, stored_states
from s2t_ext.distillation.packing import pack
from s2t_ext.distillation.quality.held_out import HeldOut

DECODED = 8


def load(collection, run, threshold):
    """(states [G, K, D], log-probabilities, mask, teacher probabilities [G, K], fires [G])."""
    stored = stored_states(run, collection.digest())
    trajectories = [t for t in collection.trajectories("held_out") if t.groups]
    states = CachedStates(
        {t.key: (stored[f"{t.key}.candidates"], stored[f"{t.key}.steps"]) for t in trajectories}
    )
    candidates, _ = states.of(trajectories)
    batch = pack(trajectories)
    warmup = S2TConfig().warmup_steps
    groups = [group for t in trajectories for group in t.groups]
    fires = torch.tensor([g.step >= warmup and g.entropy > threshold for g in groups])
    columns = (candidates, batch.student_logprobs, batch.candidate_mask, batch.teacher_probs)
    return *(column[:, :DECODED] for column in columns), fires


def scores_of(selector, states):
    """[G, K], without the prior term."""
    bias = None if selector.bias is None else selector.bias.float()
    return ops.score_candidates(
        states.float().flatten(0, 1),
        selector.rows.float(),
        bias,
        bin_values=selector.bin_values,
        bin_temperature=selector.bin_temperature,
        logit_scale=selector.logit_scale,
        softcap=selector.softcap,
    ).view(states.shape[:2])


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("collection", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("selectors", type=Path, nargs="+")
    parser.add_argument("--threshold", type=float, default=1.1725, help="nats")
    options = parser.parse_args()
    states, logprobs, mask, teacher, fires = load(
        Collection(options.collection), options.run, options.threshold
    )
    none = torch.zeros(0)
    print("| selector (prior weight) | groups | agreement | student | gained / lost |")
    print("|---|---|---|---|---|")
    for folder in options.selectors:
        selector = Selector.from_pretrained(folder)
        scores = scores_of(selector, states)
        for where, own in (("trigger fires", fires), ("elsewhere", ~fires)):
            part = HeldOut(scores[own], logprobs[own], mask[own], teacher[own], none, none, none)
            found = part.quality(selector.prior_weight, 0.0)
            print(
                f"| {folder.resolve().parent.name}/{folder.name} ({selector.prior_weight:.2f}) | "
                f"{found.groups}, {where} | {found.agreement:.3f} | "
                f"{found.student_agreement:.3f} | {found.gained} / {found.lost} |"
            )


if __name__ == "__main__":
    main()
