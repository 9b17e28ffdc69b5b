"""Runs one operator of a `_simt` library under ten schedules; both are arguments. Prints a JSON
list of the errors, null where there was none. It is a process of its own because a library with a
fault in it registers the same operators as the one without."""

import json
import sys

import torch


def calls(ops):
    torch.manual_seed(0)
    logits = torch.randn(1, 9001).bfloat16()[:, 1:]  # unaligned, and a tail that is not whole
    hidden, rows = torch.randn(2, 5, 70), torch.randn(9, 70)
    flags = torch.tensor([True, True]), torch.tensor([4, 4]), torch.tensor([False, False])
    counters = torch.tensor([1, 2]), torch.tensor([3, 4])
    rules = [torch.tensor([v]) for v in (1.0, 100, 0.9, 0.0, 5, 6)]
    return {
        "propose_candidates": lambda: ops.propose_candidates(logits, 64, 64, None),
        "sample_token": lambda: ops.sample_token(logits[:, :3000], *rules, None),
        "score_and_select": lambda: ops.score_and_select(
            *(hidden, rows, None, torch.rand(9), 1.0, 1.0, None, torch.arange(10).view(2, 5)),
            *(torch.zeros(2, 5), 0.0, *flags, 0, 0.0, *counters, 0.0),
        ),
    }


def main() -> None:
    library, operator = sys.argv[1:]
    torch.ops.load_library(library)
    ops = torch.ops.s2t_ext_simt
    call, errors = calls(ops)[operator], []
    for seed in range(10):
        order = ("forward", "reversed", "random")[min(seed, 2)]
        ops.set_schedule(order, order, seed % 3, 0.01 if seed > 6 else 0.0, seed)
        try:
            call()
            errors.append(None)
        except RuntimeError as error:
            errors.append(str(error))
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
