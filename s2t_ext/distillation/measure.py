"""What a model and a score head make of held-out groups (the input of `quality`) and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
import torch.nn.functional as F

from s2t_ext.distillation.data.teacher_tokens import TeacherTokens
from s2t_ext.distillation.features import CachedStates
from s2t_ext.distillation.groups import Trajectory, batches_by_length
from s2t_ext.distillation.objective import ObjectiveMaker
from s2t_ext.distillation.options import DistillConfig
from s2t_ext.distillation.packing import pack
from s2t_ext.distillation.quality.held_out import HeldOut
from s2t_ext.distillation.token_terms import StepLabels


@dataclass(frozen=True)
class TokenFit:
    """How near a model is to the responses and to its teacher, in nats a token.

    Attributes:
        teacher_kl: Mean KL(teacher || model) over the teacher's likeliest tokens and all others as
            one; None where these are not known.
        nll: Mean negative log-likelihood of the response's own tokens.
    """

    teacher_kl: float | None
    nll: float

    def to_dict(self) -> dict[str, float | None]:
        """Plain JSON values."""
        return asdict(self)


@torch.no_grad()
def measure_tokens(
    maker: ObjectiveMaker,
    trajectories: Sequence[Trajectory],
    teacher: TeacherTokens | None,
    config: DistillConfig,
) -> TokenFit:
    """The model on the steps of trajectories; leaves it in evaluation mode.

    Args:
        maker: Of the run; its model is measured.
        trajectories: With at least one step to look at.
        teacher: Its likeliest tokens at these steps.
        config: `batch_size` is read.
    """
    maker.model.eval()
    known = [replace(t, groups=()) for t in trajectories if t.num_steps]
    device = maker.head.rows.device
    divergence = nll = 0.0
    for batch in batches_by_length(known, config.batch_size, range(len(known))):
        packed, labels = pack(batch).to(device), StepLabels.of(batch, teacher, device)
        states = packed.step_states(maker.packed.states(packed)[1])
        nll += float(maker.tokens.sft(states, labels.response))
        if labels.teacher is not None:
            divergence += float(maker.tokens.teacher_kl(states, labels.teacher))
    steps = sum(t.num_steps for t in known)
    return TokenFit(None if teacher is None else divergence / steps, nll / steps)


@torch.no_grad()
def measure(
    maker: ObjectiveMaker,
    trajectories: Sequence[Trajectory],
    states: CachedStates | None,
    config: DistillConfig,
) -> HeldOut:
    """Scores of the first k candidates of every group and trigger logits of every step.

    Leaves the model and the head in evaluation mode: without dropout.

    Args:
        maker: Of the run; its model and score head are measured.
        trajectories: With labelled groups.
        states: Of the frozen backbone, where they are known; None runs the model.
        config: `k` and `batch_size` are read.

    Returns:
        On the CPU, G groups and S steps of all trajectories, in batches of similar length.
    """
    maker.model.eval()
    head = maker.head.eval()
    parts: list[tuple[torch.Tensor, ...]] = []
    for batch in batches_by_length(trajectories, config.batch_size, range(len(trajectories))):
        packed = pack(batch).to(head.rows.device)
        if states is None:
            scored, hidden = maker.packed.states(packed)
            candidates, steps = packed.candidate_states(scored), packed.step_states(hidden)
        else:
            candidates, steps = states.of(batch)
        columns = (
            head.scores(candidates),
            packed.student_logprobs,
            packed.candidate_mask,
            packed.teacher_probs,
        )
        k = config.k
        padded = tuple(F.pad(c[:, :k], (0, max(0, k - c.shape[1]))) for c in columns)
        trigger = head.trigger_logits(steps, packed.step_entropy, packed.step_logprobs)
        groups = [group for trajectory in batch for group in trajectory.groups]
        entropy = torch.tensor([group.entropy for group in groups])
        ids = packed.input_ids[packed.group_row[:, None], packed.candidates]
        ids = F.pad(ids[:, :k], (0, max(0, k - ids.shape[1])))
        parts.append((*padded, trigger, packed.step_entropy, packed.step_kl, entropy, ids))
    return HeldOut(*(torch.cat(p).cpu() for p in zip(*parts, strict=True)))
