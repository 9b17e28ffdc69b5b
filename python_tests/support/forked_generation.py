"""Generates in four threads, forks, and generates in the child: `python forked_generation.py`.
With the argument `beside`, a thread goes on computing while the process forks.

Prints what the child says, and ends with its status; it runs in a process of its own, which a
child that waits for ever cannot take along.
"""

import os
import signal
import sys
import threading
import time

import torch
from models import make_selector, prompts, tiny_model, way_in

from s2t_ext import S2TConfig, ops


def generate(model, selector) -> list:
    """A whole generation, then an operator and a product large enough for torch's threads."""
    inputs = prompts(True)
    config = S2TConfig(trigger="always", warmup_steps=0)
    arguments = dict(input_ids=inputs.ids, attention_mask=inputs.mask, max_new_tokens=8)
    new = way_in("generate", model, config, selector, seed=1)(**arguments, do_sample=False)
    large = torch.randn(64, 4096, generator=torch.Generator().manual_seed(0))
    ids = ops.propose_candidates(large @ large.T, 8).ids
    return [ids.tolist(), new.tolist()]


def compute_for_ever() -> None:
    """Products of seconds each: between two of them the thread holds no lock."""
    large = torch.randn(5000, 5000, dtype=torch.float64)
    while True:
        torch.mm(large, large)


def in_child(model, selector, expected: list) -> str:
    try:
        return "the same" if generate(model, selector) == expected else "another text"
    except RuntimeError as error:
        return str(error)


def main() -> None:
    torch.set_num_threads(4)
    model = tiny_model("llama")
    selector = make_selector(model)
    expected = generate(model, selector)
    threads = [threading.Thread(target=generate, args=(model, selector)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if sys.argv[1:] == ["beside"]:
        threading.Thread(target=compute_for_ever, daemon=True).start()
        time.sleep(3)  # until it computes
    child = os.fork()
    if child == 0:
        signal.alarm(100)
        print(in_child(model, selector, expected), flush=True)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # At once: a thread that still computes may end an interpreter that shuts down by an abort.
    os._exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
