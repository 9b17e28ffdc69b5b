"""Collecting from rollouts that another program has made."""

import json

import pytest
from collecting import PROMPTS, run_collect

from s2t_ext.distillation.data.collection import SPLITS


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return run_collect(tmp_path_factory.mktemp("collected"), held_out=0.4)


def test_rollouts_of_a_file(tmp_path, collection):
    """What another program has decoded is labelled as if it had been decoded here."""
    found = {int(t.key): t for split in SPLITS for t in collection.trajectories(split)}
    lines = [{"prompt": found[i].prompt, "response": found[i].response} for i in sorted(found)]
    path = tmp_path / "rollouts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    imported = run_collect(tmp_path / "imported", held_out=0.4, rollouts_from=path)
    for split in SPLITS:
        assert imported.trajectories(split) == collection.trajectories(split)
    assert "rollouts_sha256" in imported.manifest["settings"]

    lines[0]["response"] = []  # other rollouts do not go on with these
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match="differs in rollouts_sha256"):
        run_collect(tmp_path / "imported", held_out=0.4, rollouts_from=path)


@pytest.mark.parametrize(
    "line", ["", "3", "[1]", '{"prompt": [1]}', '{"prompt": [], "response": [1]}',
             '{"prompt": [1], "response": [99999]}', '{"prompt": [1], "response": [-1]}',
             '{"prompt": [1], "response": [true]}', '{"prompt": "1", "response": "2"}', "\xff"]
)  # fmt: skip
def test_files_of_anything_else_are_refused(tmp_path, line):
    path = tmp_path / "rollouts.jsonl"
    good = '{"prompt": [1], "response": []}\n'
    path.write_bytes((good * (len(PROMPTS) - 1) + line).encode("latin-1"))
    with pytest.raises(ValueError, match="collect: rollouts_from must (hold lines|have one line)"):
        run_collect(tmp_path / "new", rollouts_from=path)
    assert not (tmp_path / "new").exists()
