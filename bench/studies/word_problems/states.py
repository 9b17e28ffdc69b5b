"""Hidden states of several layers at the labelled steps of a collection, a file per trajectory.

    python bench/studies/word_problems/states.py MODEL COLLECTION STATES [LIMIT]

Each file holds, per layer l, `c<l>` [groups, K, D], the states after each candidate, and `p<l>`
[groups, D], the state that proposed them, float16. One packed forward pass per trajectory.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from s2t_ext.distillation.data.collection import Collection
from s2t_ext.distillation.packing import PackedModel, pack

LAYERS = (4, 8, 12, 16, 20)


@torch.no_grad()
def main(model: str, collection: str, folder: str, limit: str = "300") -> None:
    """Resumes: a trajectory whose file is there is left alone."""
    student = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
    packed = PackedModel(student)
    kept: dict[int, torch.Tensor] = {}

    def keep(layer: int):
        def hook(module, inputs, output):
            kept[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    for layer in LAYERS:
        student.model.layers[layer - 1].register_forward_hook(keep(layer))
    Path(folder).mkdir(exist_ok=True)
    found = Collection(collection)
    for trajectory in (found.trajectories() + found.trajectories("held_out"))[: int(limit)]:
        path = Path(folder) / f"{trajectory.key}.safetensors"
        if path.exists() or not trajectory.groups:
            continue
        batch = pack([trajectory])
        kept[student.config.num_hidden_layers] = packed.hidden_states(batch)
        proposing = [len(trajectory.prompt) + group.step - 1 for group in trajectory.groups]
        tensors = {}
        for layer, hidden in kept.items():
            tensors[f"c{layer}"] = batch.candidate_states(hidden).half().contiguous()
            tensors[f"p{layer}"] = hidden[0, proposing].half().contiguous()
        save_file(tensors, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
