"""All operators from several Python threads at once give what they give alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from s2t_ext import ops
from s2t_ext.native import cpu_isa
from s2t_ext.testing import LogitsCase, ScoreCase, assert_same_bits, threads

WORKERS = 6
ROUNDS = 30


def propose(variant):
    case = LogitsCase(batch=1 + variant % 3, vocab=20_000 + variant, k=8, seed=variant)
    logits, blocked = case.make(), torch.tensor([variant])
    return lambda: ops.propose_candidates(logits, 8, blocked_ids=blocked)


def score(variant):
    case = ScoreCase(batch=4, k=32, hidden_size=512 + variant, seed=variant)
    hidden, head = case.hidden().flatten(0, 1), case.head()
    return lambda: (ops.score_candidates(hidden, **head),)


def select(variant):
    choice = ScoreCase(batch=50, seed=variant).choice()
    scores = torch.randn(50, 8, generator=torch.Generator().manual_seed(variant))
    names = ("ids", "triggered", "default_token", "finished", "pad_id")
    arguments = {name: choice[name] for name in names}
    seed, position = torch.full((50,), variant), torch.arange(50)
    return lambda: ops.select_token(
        scores=scores, score_temperature=0.7, seed=seed, position=position, **arguments
    )


def score_and_select(variant):
    case = ScoreCase(batch=3, k=16, hidden_size=600, hidden_dtype=torch.bfloat16, seed=variant)
    hidden, arguments = case.hidden(), {**case.head(), **case.choice()}
    return lambda: ops.score_and_select(hidden, **arguments)


def sample(variant):
    logits = LogitsCase(batch=2, vocab=30_000, k=8, seed=variant).make()
    temperature, top_k = torch.tensor([1.0, 0.6]), torch.tensor([0, 40])
    top_p, min_p = torch.tensor([0.95, 1.0]), torch.tensor([0.0, 0.01])
    seed, position = torch.tensor([variant, 7]), torch.tensor([3, variant])
    return lambda: ops.sample_token(logits, temperature, top_k, top_p, min_p, seed, position)


def commit(variant):
    cache = torch.randn(4, 2, 30, 16, generator=torch.Generator().manual_seed(variant))
    slot, start = torch.arange(4) * 2, torch.full((4,), variant)

    def run():
        keys, values = [cache.clone()], [-cache]
        ops.commit_candidates(keys, values, slot, start, 8)
        return keys[0], values[0]

    return run


def copy(variant):
    caches = torch.randn(3, 40, 2, 16, 64, generator=torch.Generator().manual_seed(variant))
    source, target = torch.arange(12) + variant % 8, torch.arange(12) + 20

    def run():
        copied = list(caches.clone())
        ops.copy_blocks(copied, source, target)
        return copied

    return run


def support_kl(variant):
    student = LogitsCase(batch=2, vocab=20_000, k=8, seed=variant).make()
    teacher = LogitsCase(batch=2, vocab=20_000, k=8, seed=variant + 100).make()
    best = student.topk(64)
    return lambda: ops.support_kl(best.indices, best.values, teacher, best.indices[:, :8])


OPERATIONS = (propose, score, select, score_and_select, sample, commit, copy, support_kl)


def check(actual, expected, what):
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert_same_bits(a, b, f"{what}, result {i}")


@pytest.mark.parametrize("intra_op_threads", [1, 2])
def test_threads_do_not_disturb_each_other(intra_op_threads):
    calls = [(f"{make.__name__} {i}", make(i)) for make in OPERATIONS for i in range(3)]
    with threads(intra_op_threads):
        expected = [call() for _, call in calls]
        barrier = threading.Barrier(WORKERS)

        def work(worker):
            barrier.wait()  # so that the threads really run together
            for n in range(ROUNDS):
                # every worker goes through the calls in an order of its own
                place = (n * (2 * worker + 1) + 5 * worker) % len(calls)
                name, call = calls[place]
                check(call(), expected[place], f"{name} in thread {worker}")
            return worker

        with ThreadPoolExecutor(WORKERS) as pool:
            assert list(pool.map(work, range(WORKERS))) == list(range(WORKERS))


def test_an_error_in_one_thread_leaves_the_others_alone():
    call = score(0)
    expected = call()

    def work(worker):
        for _ in range(ROUNDS):
            if worker % 2:
                with pytest.raises(RuntimeError, match="k must be in"):
                    ops.propose_candidates(torch.zeros(1, 10), 0)
            else:
                check(call(), expected, f"thread {worker}")

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(work, range(WORKERS)))


def test_the_instruction_set_may_change_while_threads_run():
    isas = cpu_isa.available()
    if len(isas) < 2:
        pytest.skip("one instruction set here, nothing to change to")
    calls = [make(1) for make in OPERATIONS]
    expected = [call() for call in calls]
    stop = threading.Event()

    def work(worker):
        while not stop.is_set():
            for call, wanted in zip(calls, expected, strict=True):
                check(call(), wanted, f"thread {worker}")

    with ThreadPoolExecutor(WORKERS) as pool:
        futures = [pool.submit(work, worker) for worker in range(3)]
        try:
            for n in range(30):
                with cpu_isa.forced(isas[n % len(isas)]):
                    calls[n % len(calls)]()
        finally:
            stop.set()
        for future in futures:
            future.result()
