"""What a model and a score head make of held-out groups: the input of `quality`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from s2t_ext.distillation.features import CachedStates
from s2t_ext.distillation.groups import Trajectory, batches_by_length
from s2t_ext.distillation.objective import ObjectiveMaker
from s2t_ext.distillation.options import DistillConfig
from s2t_ext.distillation.packing import pack
from s2t_ext.distillation.quality.held_out import HeldOut


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
        trigger = head.trigger_logits(steps)
        groups = [group for trajectory in batch for group in trajectory.groups]
        entropy = torch.tensor([group.entropy for group in groups])
        ids = packed.input_ids[packed.group_row[:, None], packed.candidates]
        ids = F.pad(ids[:, :k], (0, max(0, k - ids.shape[1])))
        parts.append((*padded, trigger, packed.step_entropy, packed.step_kl, entropy, ids))
    return HeldOut(*(torch.cat(p).cpu() for p in zip(*parts, strict=True)))
