"""Which head on a frozen backbone would choose best, on other problems of the same templates?

    python bench/studies/word_problems/heads.py COLLECTION STATES

STATES: what `states.py` wrote. Rollouts are dealt into four folds; each is measured by a head
trained on the other three. Prints, per head and override margin: agreement with the teacher's best
of 8, net recall (overrides the teacher likes better less those it likes less, over the groups where
its best is not the student's first), the share of groups overridden, and the share of harmful
overrides.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

FOLDS, K, WIDTH, DROPOUT, EPOCHS, BATCH, RATE = 4, 8, 256, 0.2, 10, 128, 1e-3
MARGINS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)


@dataclass
class Groups:
    """All labelled groups: fold [G]; student log-probabilities and teacher probabilities [G, K];
    mask [G, K] of the candidates there are; states by name.
    """

    fold: torch.Tensor
    student: torch.Tensor
    teacher: torch.Tensor
    mask: torch.Tensor
    states: dict[str, torch.Tensor]

    @classmethod
    def load(cls, collection, folder, names):
        """Those whose states are there."""
        fold, student, teacher, states = [], [], [], {name: [] for name in names}
        for shard in sorted(Path(collection).glob("trajectories-*.jsonl")):
            for record in map(json.loads, shard.read_text().splitlines()):
                path = Path(folder) / f"{record['key']}.safetensors"
                if not path.exists():
                    continue
                found = load_file(path)
                for name in names:
                    states[name].append(found[name])
                for group in record["groups"]:
                    missing = K - len(group["candidates"])
                    fold.append(int(record["key"]) % FOLDS)
                    student.append(group["student_logprobs"] + [-30.0] * missing)
                    teacher.append(group["teacher_probs"] + [-1.0] * missing)
        probs = torch.tensor(teacher)
        joined = {name: torch.cat(parts) for name, parts in states.items()}
        logprobs = torch.tensor(student).clamp(min=-30)
        return cls(torch.tensor(fold), logprobs, probs.clamp(min=0), probs >= 0, joined)


class Rows(nn.Module):
    """16 score rows, their expected bin value, and the prior."""

    def __init__(self, size, scale):
        super().__init__()
        self.rows = nn.Linear(size, 16)
        nn.init.normal_(self.rows.weight, std=1 / scale)
        self.gain, self.prior = nn.Parameter(torch.tensor(4.0)), nn.Parameter(torch.tensor(1.0))
        self.register_buffer("bins", torch.linspace(0, 1, 16))

    def forward(self, states, logprobs):
        return self.gain * (self.rows(states).softmax(-1) @ self.bins) + self.prior * logprobs


class TwoLayers(nn.Module):
    """LayerNorm, 256 units, one score, and the prior; starts as the student's own order."""

    def __init__(self, size, scale):
        super().__init__()
        drop = nn.Dropout(DROPOUT)
        last = nn.Linear(WIDTH, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.body = nn.Sequential(
            nn.LayerNorm(size), drop, nn.Linear(size, WIDTH), nn.GELU(), drop, last
        )
        self.prior = nn.Parameter(torch.tensor(1.0))

    def forward(self, states, logprobs):
        return self.body(states)[..., 0] + self.prior * logprobs


def features(groups, names, rows):
    """States of `rows`, candidates' and proposing ones side by side, float32 [rows, K, size]."""
    parts = []
    for name in names:
        part = groups.states[name][rows].float()
        parts.append(part if name[0] == "c" else part[:, None].expand(-1, K, -1))
    return torch.cat(parts, dim=-1)


def train(groups, names, kind, rows, seed):
    """Soft labels: the teacher's probabilities among the candidates."""
    torch.manual_seed(seed)
    sample = features(groups, names, rows[:500])
    head = kind(sample.shape[-1], float(sample.norm(dim=-1).mean()))
    decay = 0.05 if kind is TwoLayers else 0.0
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=decay)
    steps = EPOCHS * -(-len(rows) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps + 1, pct_start=0.1
    )
    labels = groups.teacher / groups.teacher.sum(1, keepdim=True).clamp(min=1e-9)
    for _ in range(EPOCHS):
        for batch in rows[torch.randperm(len(rows))].split(BATCH):
            total = head(features(groups, names, batch), groups.student[batch])
            total = total.masked_fill(~groups.mask[batch], -1e4)
            loss = -(labels[batch] * F.log_softmax(total, 1)).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return head.eval()


@torch.no_grad()
def totals(groups, names, head, rows):
    """What each candidate gets, [rows, K]."""
    parts = [head(features(groups, names, b), groups.student[b]) for b in rows.split(512)]
    return torch.cat(parts)


def report(name, groups, total):
    """One line per margin."""
    total = total.masked_fill(~groups.mask, -1e9)
    best = groups.teacher.masked_fill(~groups.mask, -1.0).argmax(1)
    found = total.argmax(1)
    lead = total.gather(1, found[:, None])[:, 0] - total[:, 0]
    logprob = (groups.teacher + 1e-9).log()
    for margin in MARGINS:
        slot = torch.where((found != 0) & (lead > margin), found, 0)
        gain = logprob.gather(1, slot[:, None])[:, 0] - logprob[:, 0]
        right, harmful, over = (gain > 0).sum(), (gain < 0).sum(), (slot != 0).sum()
        net = float((right - harmful) / (best != 0).sum())
        harm = float(harmful / over.clamp(min=1))
        agree, share = float((slot == best).float().mean()), float(over / len(slot))
        print(f"{name:16} {margin:.1f} {agree:.3f} {net:.3f} {share:.3f} {harm:.3f}", flush=True)


HEADS = {
    "rows, last": (("c24",), Rows),
    "two layers, 12": (("c12",), TwoLayers),
    "two layers, 16": (("c16",), TwoLayers),
    "two layers, 20": (("c20",), TwoLayers),
    "two layers, last": (("c24",), TwoLayers),
    "16 with proposer": (("c16", "p16"), TwoLayers),
}


def main(collection, folder):
    """Every head in turn; only its own states are in memory."""
    for name, (names, kind) in HEADS.items():
        groups = Groups.load(collection, folder, names)
        total = torch.zeros_like(groups.student)
        for fold in range(FOLDS):
            own = (groups.fold == fold).nonzero()[:, 0]
            head = train(groups, names, kind, (groups.fold != fold).nonzero()[:, 0], fold)
            total[own] = totals(groups, names, head, own)
        report(name, groups, total)


if __name__ == "__main__":
    main(*sys.argv[1:])
