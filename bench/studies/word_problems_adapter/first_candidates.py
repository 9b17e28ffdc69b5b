"""Cuts a collection to its first shards and to the first candidates of each labelled step.

python bench/studies/word_problems_adapter/first_candidates.py COLLECTION SHARDS K OUTPUT
"""

import json
import shutil
import sys
from pathlib import Path

PER_CANDIDATE = ("candidates", "student_logprobs", "teacher_probs")


def cut(trajectory: dict, k: int) -> dict:
    """A trajectory whose groups keep their first `k` candidates, the student's likeliest."""
    for group in trajectory["groups"]:
        for name in PER_CANDIDATE:
            group[name] = group[name][:k]
    return trajectory


def main(source: Path, shards: int, k: int, output: Path) -> None:
    """Writes the cut collection, with a manifest that says so."""
    output.mkdir(parents=True)
    manifest = json.loads((source / "manifest.json").read_text())
    count = 0
    for shard in range(shards):
        lines = (source / f"trajectories-{shard:05d}.jsonl").read_text().splitlines()
        kept = [json.dumps(cut(json.loads(line), k)) + "\n" for line in lines]
        (output / f"trajectories-{shard:05d}.jsonl").write_text("".join(kept))
        shutil.copy(source / f"teacher-tokens-{shard:05d}.safetensors", output)
        count += len(kept)
    manifest["shards"] = shards
    manifest["settings"] |= {"k": k, "prompts": count}
    (output / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
