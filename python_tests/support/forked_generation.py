"""Generates in four threads, forks, and generates in the child: `python forked_generation.py`.

Prints what the child says, and ends with its status; it runs in a process of its own, which a
child that waits for ever cannot take along.
"""

import os
import signal
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
    # OpenMP's own threads end a moment later; a lock that one of them held would stay locked.
    time.sleep(1)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        same = generate(model, selector) == expected
        print("the same" if same else "another text", flush=True)
        os._exit(0)
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
