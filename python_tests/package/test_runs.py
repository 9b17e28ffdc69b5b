"""What all runs share: seeds, errors, files."""

import itertools
import os
import stat
import threading
from pathlib import Path

import pytest
import torch

from s2t_ext import S2TConfig, Selector
from s2t_ext.runs.checks import require
from s2t_ext.runs.files import write_atomically
from s2t_ext.runs.run_folder import RunFolder, append_line
from s2t_ext.runs.seeds import PATHS, PROBLEMS, SEEDS, row_seed


def test_rows_of_different_seeds_problems_and_paths_share_no_key():
    ends = [(0, 1, 2, n // 2, n - 2, n - 1) for n in (SEEDS, PROBLEMS, PATHS)]
    keys = [row_seed(*parts) for parts in itertools.product(*ends)]
    assert len(set(keys)) == len(keys)
    assert min(keys) == 0 and max(keys) == 2**63 - 1


@pytest.mark.parametrize(
    "parts, name", [((-1, 0), "seed"), ((0, PROBLEMS), "problem"), ((0, 0, PATHS), "path")]
)
def test_a_seed_out_of_range_is_refused(parts, name):
    with pytest.raises(ValueError, match=rf"row_seed: {name} must be in \[0, \d+\), got"):
        row_seed(*parts)


def test_require_says_who_what_and_which():
    require(True, "f", "x", "be 1", 2)
    with pytest.raises(ValueError, match="^f: x must be 1, got 2$"):
        require(False, "f", "x", "be 1", 2)


def test_processes_share_a_folder_and_none_cuts_what_another_is_writing(tmp_path, monkeypatch):
    def as_process(rank):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        return RunFolder(tmp_path, {"a": 1}, "test")

    as_process(0).append("x", {"n": 0})
    run = as_process(1)
    run.append("x", {"n": 1})
    theirs, own = tmp_path / "results" / "x.jsonl", tmp_path / "results" / "process-1" / "x.jsonl"
    for path in (theirs, own):
        with path.open("a") as file:
            file.write('{"n": 2')  # the one at work, this one killed
    assert run.results("x") == [{"n": 0}, {"n": 1}]
    assert theirs.read_text().endswith("2") and own.read_text() == '{"n": 1}\n'
    assert as_process(0).results("x") == [{"n": 0}, {"n": 1}]
    assert theirs.read_text() == '{"n": 0}\n'
    run.merge("x", [{"n": 0}, {"n": 1}])
    assert theirs.read_text() == '{"n": 0}\n{"n": 1}\n' and not own.parent.exists()
    assert run.results("x") == [{"n": 0}, {"n": 1}]


def test_what_a_killed_process_has_left_goes_when_it_starts_again(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    RunFolder(tmp_path, {"a": 1}, "test")
    folders = [tmp_path / part for part in ("", "results", "policies", "results/process-1")]
    for folder in folders:
        folder.mkdir(exist_ok=True)
        for rank in (0, 1):
            (folder / f"x.json.process-{rank}.y.unfinished").touch()
    monkeypatch.setenv("RANK", "1")
    run = RunFolder(tmp_path, {"a": 1}, "test")
    for folder in folders:
        assert [p.name for p in folder.glob("*.unfinished")] == ["x.json.process-0.y.unfinished"]
    monkeypatch.setenv("RANK", "0")
    RunFolder(tmp_path, {"a": 1}, "test")
    run.merge("x", [])  # killed before it had removed its folder
    assert (
        not list(tmp_path.rglob("*.unfinished")) and not (tmp_path / "results/process-1").exists()
    )


def test_a_result_is_kept_where_another_process_removes_the_empty_folder(tmp_path, monkeypatch):
    def removed_first(path, record):
        monkeypatch.undo()
        path.parent.rmdir()
        append_line(path, record)

    run = RunFolder(tmp_path, {"a": 1}, "test")
    monkeypatch.setattr("s2t_ext.runs.run_folder.append_line", removed_first)
    monkeypatch.setattr(run, "_own_file", lambda name: tmp_path / "results/process-1/x.jsonl")
    run.append("x", {"n": 0})
    assert run.results("x") == [{"n": 0}]


def test_saving_leaves_alone_what_another_is_writing(tmp_path):
    """Only a run that goes on knows that nobody else is at work in its folder."""
    theirs = tmp_path / "s2t_config.json.process-0.x.unfinished"
    theirs.touch()
    S2TConfig().save_pretrained(tmp_path)
    Selector(torch.zeros(16, 8)).save_pretrained(tmp_path)
    assert theirs.exists()


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_get_the_mode_of_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "a" / "file", "text")
    finally:
        os.umask(before)
    mode = stat.S_IMODE((tmp_path / "a" / "file").stat().st_mode)
    assert mode == 0o666 & ~mask
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["file"]


def test_what_is_no_file_is_written_to(tmp_path):
    """A file in the place of a pipe or of /dev/stdout would hide it from everybody else."""
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    write_atomically(pipe, "text")
    reader.join()
    assert got == ["text"] and pipe.is_fifo()
    with (tmp_path / "shown").open("w+") as file:
        link = tmp_path / "stdout"  # as /dev/stdout is one, here to what a shell has redirected
        link.symlink_to(f"/proc/self/fd/{file.fileno()}")
        for path in (link, Path(f"/proc/self/fd/{file.fileno()}")):
            write_atomically(path, "more ")
        assert link.is_symlink() and file.read() == "more more "
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pipe", "shown", "stdout"]
