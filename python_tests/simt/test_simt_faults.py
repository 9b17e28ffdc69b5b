"""The real kernels with one fault put in each: every one is reported, under every schedule, with
the file and line. What the tests of the sound kernels say about races rests on this."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import simt_library

HERE = Path(__file__).resolve().parent
CUDA = simt_library.CSRC / "cuda"


@dataclass(frozen=True)
class Fault:
    """`file` with the first `old` after `after` replaced by `new`; `operator` must then fail with
    `words`, naming the line that holds `names` (in `names_file`)."""

    name: str
    operator: str
    file: str
    after: str
    old: str
    new: str
    words: str
    names: str
    names_file: str


FAULTS = (
    Fault(
        "missing_barrier_before_the_arrival",
        "propose_candidates",
        *("row_scan.cuh", "bool arrives_last(", "__syncthreads();", ""),
        *("data race on global 'workspace'", "__ldcg(published +", "row_merge.cuh"),
    ),
    Fault(
        "missing_barrier_in_the_selection",
        "propose_candidates",
        *("select_keys.cuh", "s.shortlist_count = 0;\n  }", "__syncthreads();", ""),
        *("shared 'selection'", "keys[i] > key", "select_keys.cuh"),
    ),
    Fault(
        "missing_barrier_after_staging",
        "score_and_select",
        *("score.cuh", "rows.stage(first, scratch.rows)", "__syncthreads();", ""),
        *("shared 'scratch'", "scratch.hidden[tile.candidate", "score.cuh"),
    ),
    Fault(
        "missing_barrier_before_the_total",
        "sample_token",
        *("sample_mass.cuh", "scratch.total = running;", "__syncthreads();", ""),
        *("shared 'scratch'", "return scratch.total", "sample_mass.cuh"),
    ),
    Fault(
        "missing_release_fence",
        "propose_candidates",
        *("row_scan.cuh", "bool arrives_last(", "__threadfence();", ""),
        *("data race on global 'workspace'", "__ldcg(workspace.counts", "row_merge.cuh"),
    ),
    Fault(
        "missing_acquire_fence",
        "propose_candidates",
        *("row_scan.cuh", "atomicAdd(workspace.arrivals", "__threadfence();", ""),
        *("data race on global 'workspace'", "__ldcg(workspace.counts", "row_merge.cuh"),
    ),
    Fault(
        "arrivals_not_zeroed",
        "propose_candidates",
        *("row_operator.cuh", "launch_row_operator(", "workspace.blocks > 1", "false"),
        *("uninitialised global 'workspace'", "atomicAdd(workspace.arrivals", "row_scan.cuh"),
    ),
    Fault(
        "wrong_mask",
        "propose_candidates",
        *("warp.cuh", "Real warp_tree_sum(", "kAllLanes", "0x7fffffffu"),
        *("is not in its own mask 0x7fffffff", "__shfl_xor_sync(0x7fffffffu", "warp.cuh"),
    ),
    Fault(
        "absent_lane",
        "score_and_select",
        *(
            "score.cuh",
            "warp_expected_bin_value(const",
            "__any_sync(",
            "lane_id() < 31 && __any_sync(",
        ),
        *("wait", "lane_id() < 31 && __any_sync(", "score.cuh"),
    ),
    Fault(
        "tail_off_by_one",
        "propose_candidates",
        *("vector_load.cuh", "void load_group(", "first + i < vocab", "first + i <= vocab"),
        *("bytes from the start of 'logits'", "first + i <= vocab", "vector_load.cuh"),
    ),
    Fault(
        "head_reads_the_vector_before_the_row",
        "propose_candidates",
        *("vector_load.cuh", "void load_group(", "first >= skew", "first + skew >= skew"),
        *("bytes from the start of 'logits'", "__ldg(vector)", "vector_load.cuh"),
    ),
    Fault(
        "divergent_barrier",
        "propose_candidates",
        *(
            "row_scan.cuh",
            "bool arrives_last(",
            "__syncthreads();",
            "if (warp_id()) __syncthreads();",
        ),
        *("divergent barrier", "if (warp_id()) __syncthreads();", "row_scan.cuh"),
    ),
)


def _library_with(operator: str, root: Path) -> Path:
    """`_simt` with this operator's kernels compiled from the sources in `root`."""
    sound = simt_library.build().parent
    changed = simt_library.compile_object(
        root / "cuda" / f"{operator}.cu", root / "changed.o", include=root
    )
    objects = [sound / f"{path.name}.o" for path in simt_library.sources()]
    objects = [changed if path.name == f"{operator}.cu.o" else path for path in objects]
    return simt_library.link(objects, root / "_simt.so")


def _errors(library: Path, operator: str) -> list[str | None]:
    """What ten schedules of the operator report."""
    command = [sys.executable, HERE / "simt_seeded_fault.py", library, operator]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    errors: list[str | None] = json.loads(done.stdout)
    assert len(errors) == 10
    return errors


def _copy_sources(root: Path) -> None:
    for room in ("core", "cuda", "simt"):
        shutil.copytree(simt_library.CSRC / room, root / room)


def _put_in(fault: Fault, root: Path) -> int:
    """Writes the fault into the copy of the sources; the number of the line to be named."""
    path = root / "cuda" / fault.file
    text = path.read_text()
    start = text.index(fault.after)
    place = text.index(fault.old, start)
    path.write_text(text[:place] + fault.new + text[place + len(fault.old) :])
    named = (root / "cuda" / fault.names_file).read_text().splitlines()
    lines = [number for number, line in enumerate(named, 1) if fault.names in line]
    assert lines, f"{fault.names_file} has no line with {fault.names!r}"
    return lines[0]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_in_a_kernel_is_reported_with_its_line(simt_ops, tmp_path, fault):
    _copy_sources(tmp_path)
    line = _put_in(fault, tmp_path)
    errors = _errors(_library_with(fault.operator, tmp_path), fault.operator)
    for schedule, error in enumerate(errors):
        assert error is not None, f"schedule {schedule}: not reported"
        assert fault.words in error, f"schedule {schedule}: {error}"
        assert f"{fault.names_file}:{line}" in error, f"schedule {schedule}, line {line}: {error}"


@pytest.mark.parametrize("operator", sorted({fault.operator for fault in FAULTS}))
def test_the_sound_kernels_pass_the_same_calls(simt_ops, operator):
    assert _errors(simt_library.build(), operator) == [None] * 10


@pytest.mark.parametrize("operator", ["propose_candidates", "sample_token"])
def test_the_selection_is_sound_where_both_sides_of_an_and_are_evaluated(
    simt_ops, tmp_path, operator
):
    """nvcc may load shared memory ahead of the condition that guards the load in the source."""
    _copy_sources(tmp_path)
    path = tmp_path / "cuda" / "select_keys.cuh"
    text = path.read_text()
    assert " && " in text
    path.write_text(text.replace(" && ", " & "))
    assert _errors(_library_with(operator, tmp_path), operator) == [None] * 10
