"""Hidden states of a frozen backbone, computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from tqdm.auto import tqdm

from s2t_ext.distillation.groups import Trajectory
from s2t_ext.distillation.packing import PackedModel, pack
from s2t_ext.runs.files import write_atomically

#: Trajectories per file: what a killed run loses at most.
SHARD = 32


class CachedStates:
    """States by trajectory: after each candidate [g, K, D], before each labelled token [s, D]."""

    def __init__(self, states: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        self._states = states

    def of(self, batch: Sequence[Trajectory]) -> tuple[torch.Tensor, torch.Tensor]:
        """([G, K, D], [S, D]) of a batch, in the order of `pack`; missing candidates are zeros."""
        candidates, steps = zip(*(self._states[t.key] for t in batch), strict=True)
        most = max(c.shape[1] for c in candidates)
        padded = [torch.nn.functional.pad(c, (0, 0, 0, most - c.shape[1])) for c in candidates]
        return torch.cat(padded), torch.cat(steps)


@torch.no_grad()
def cached_states(
    model: PackedModel, trajectories: Sequence[Trajectory], folder: Path, digest: str
) -> CachedStates:
    """Computes the states of all trajectories, or reads those that a former run of the same folder
    on the same collection (`digest`) has computed for the same layer.
    """
    model.plain.eval()
    states = {}
    device = model.plain.device
    layer = "" if model.layer is None else f"-layer{model.layer}"
    shards = range(0, len(trajectories), SHARD)
    for index, begin in enumerate(tqdm(shards, desc="hidden states", disable=None)):
        part = trajectories[begin : begin + SHARD]
        path = folder / f"states-{digest}{layer}-{index:05d}.safetensors"
        if path.exists():
            tensors = load_file(path)
        else:
            tensors = {}
            for t in part:
                batch = pack([t]).to(device)
                scored, hidden = model.states(batch)
                tensors[f"{t.key}.candidates"] = batch.candidate_states(scored).contiguous().cpu()
                tensors[f"{t.key}.steps"] = batch.step_states(hidden).contiguous().cpu()
            write_atomically(path, save(tensors))
        for t in part:
            pair = tensors[f"{t.key}.candidates"], tensors[f"{t.key}.steps"]
            states[t.key] = (pair[0].to(device), pair[1].to(device))
    return CachedStates(states)


def stored_states(folder: Path, digest: str) -> dict[str, torch.Tensor]:
    """What `cached_states` has kept in the folder of a run on the collection of that digest:
    "<key of a trajectory>.candidates" [g, K, D] and ".steps" [s, D].

    Raises:
        FileNotFoundError: if there is nothing.
    """
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(Path(folder).glob(f"states-{digest}-*.safetensors")):
        tensors.update(load_file(path))
    if not tensors:
        raise FileNotFoundError(
            f"stored_states: folder must hold a `rows` run on collection {digest}, got none in "
            f"{folder}"
        )
    return tensors


@torch.no_grad()
def head_input_scale(model: PackedModel, trajectory: Trajectory) -> float:
    """Mean norm of the states that a score head reads; sets the size of its initial rows."""
    training = model.plain.training
    model.plain.eval()
    ids = torch.tensor([[*trajectory.prompt, *trajectory.response]], device=model.plain.device)
    hidden = model.plain_states(ids)[0].float()
    model.plain.train(training)
    return float(hidden.norm(dim=1).mean())
