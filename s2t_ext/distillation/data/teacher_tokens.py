"""The teacher's likeliest tokens at every response step, beside the shards of a collection.

    teacher-tokens-00000.safetensors    of each trajectory "<key>.ids", int32 [steps, N], and
                                        "<key>.logprobs", float16 [steps, N + 1]

The last log-probability of a step is that of all other tokens together. 6 N + 2 bytes a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from s2t_ext.distillation.groups import Trajectory
from s2t_ext.runs.files import write_atomically
from s2t_ext.teachers.labels import TopTokens


def write_teacher_tokens(path: Path, tokens: Mapping[str, TopTokens]) -> None:
    """Writes those of one shard, by the keys of its trajectories, whole or not at all."""
    tensors = {}
    for key, (ids, logprobs) in tokens.items():
        tensors[f"{key}.ids"] = ids.to("cpu", torch.int32).contiguous()
        tensors[f"{key}.logprobs"] = logprobs.to("cpu", torch.float16).contiguous()
    write_atomically(path, save(tensors))


class TeacherTokens:
    """What `write_teacher_tokens` wrote, of several shards.

    Args:
        paths: The files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._tensors: dict[str, torch.Tensor] = {}
        for path in paths:
            self._tensors.update(load_file(path))

    def __contains__(self, trajectory: Trajectory) -> bool:
        return f"{trajectory.key}.ids" in self._tensors

    def of(self, batch: Sequence[Trajectory]) -> TopTokens:
        """(int64 [S, N], fp32 [S, N + 1]) of a batch's response steps, in the order of `pack`."""
        ids = torch.cat([self._tensors[f"{t.key}.ids"] for t in batch])
        logprobs = torch.cat([self._tensors[f"{t.key}.logprobs"] for t in batch])
        return TopTokens(ids.long(), logprobs.float())
