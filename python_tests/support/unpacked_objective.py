"""The training objective by its definition: a forward pass of prefix + candidate per candidate."""

import torch

from s2t_ext.distillation.packing import pack
from s2t_ext.distillation.token_terms import TokenSums


def unpacked_objective(maker, trajectories, counts, pad_id=0):
    """What `maker.packed_objective` is tested and timed against, with K copies of every prefix."""
    totals, base, states = [], torch.zeros(()), []
    device = maker.head.rows.device
    batch = pack(trajectories, pad_id).to(device)
    for trajectory in trajectories:
        tokens = torch.tensor((*trajectory.prompt, *trajectory.response), device=device)
        for group in trajectory.groups:
            prefix = tokens[: len(trajectory.prompt) + group.step]
            copies = prefix.repeat(len(group.candidates), 1)
            candidates = torch.tensor(group.candidates, device=device)[:, None]
            ids = torch.cat([copies, candidates], dim=1)
            hidden = maker.packed.plain_hidden_states(ids)[:, -1]
            logprobs = torch.tensor(group.student_logprobs, device=device)
            totals.append(maker.head.totals(hidden, logprobs))
        own = tokens[None, : trajectory.prefix_length]
        hidden = maker.packed.plain_hidden_states(own)[0]
        if maker.has_base_term:
            mask = torch.ones_like(own, dtype=torch.bool)
            base = base + maker.tokens.base_kl(own, mask, hidden)
        first = len(trajectory.prompt) - 1
        states.append(hidden[first : first + len(trajectory.kl)])
    most = batch.candidates.shape[1]
    padded = [torch.nn.functional.pad(t, (0, most - len(t))) for t in totals]
    stacked = torch.stack(padded) if padded else batch.student_logprobs
    zero = torch.zeros((), device=device)
    sums = TokenSums(base, zero, zero)
    return maker.objective(batch, stacked, sums, torch.cat(states), counts)
