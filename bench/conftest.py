"""What the operator benchmarks share: no gradients, a thread count, one file of results each."""

import pytest
import torch
from harness import interleaved, write_results

from s2t_ext.testing import threads


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(params=[1, 2], ids=["1thread", "2threads"])
def num_threads(request):
    with threads(request.param):
        yield request.param


@pytest.fixture(scope="module")
def results(request):
    """Rows of this file's benchmarks, written to one file when the last has run."""
    rows = []
    yield rows
    if rows:
        write_results(request.path.stem.removeprefix("bench_"), rows)


@pytest.fixture
def compare(benchmark, results):
    """compare(case, implementations, ours): times them in turn against the first, then ours alone.

    `case` is a dictionary that says what was measured. The caller has checked that they agree.
    """

    def run(case, implementations, ours):
        baseline = next(iter(implementations))
        rows = interleaved(implementations)
        text = ", ".join(f"{name} {value}" for name, value in case.items())
        results.extend({"case": text, **case, **row} for row in rows)
        speed_up = f"speed_up_over_{baseline}"
        benchmark.extra_info.update(case)
        for row in rows:
            benchmark.extra_info[row["implementation"]] = {
                "microseconds": row["microseconds"],
                "speed_up": row[speed_up],
            }
            median, low, high = (row[speed_up][name] for name in ("median", "p20", "p80"))
            print(
                f"{text}: {row['implementation']} {row['microseconds']['median']:.1f} us, "
                f"{median:.2f} x {baseline} ({low:.2f} to {high:.2f})"
            )
        benchmark.pedantic(implementations[ours], rounds=200, iterations=10, warmup_rounds=5)

    return run
