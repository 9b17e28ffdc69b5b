"""Fences and parameters of all tests."""

import os
import random

# Before anything imports huggingface_hub: no test may reach the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import pytest
import simt_library
import torch


@pytest.fixture(autouse=True)
def rng_fence():
    """Every test starts from the same random state and leaves none behind."""
    before = random.getstate(), torch.get_rng_state()
    random.seed(0)
    torch.manual_seed(0)
    yield
    random.setstate(before[0])
    torch.set_rng_state(before[1])


def has_cuda() -> bool:
    """True where CUDA tests run; an error elsewhere if S2T_EXT_FAIL_WITHOUT_CUDA=1."""
    is_there = torch.cuda.is_available()
    if not is_there and os.environ.get("S2T_EXT_FAIL_WITHOUT_CUDA") == "1":
        pytest.fail("S2T_EXT_FAIL_WITHOUT_CUDA is set and torch sees no CUDA device")
    return is_there


@pytest.fixture(params=["cpu", "cuda"])
def device(request) -> str:
    if request.param == "cuda" and not has_cuda():
        pytest.skip("torch sees no CUDA device")
    return request.param


@pytest.fixture
def cuda() -> str:
    """The CUDA device, for tests that make no sense without one."""
    if not has_cuda():
        pytest.skip("torch sees no CUDA device")
    return "cuda"


@pytest.fixture(scope="session")
def simt_ops():
    """torch.ops.s2t_ext_simt: the CUDA kernels, executed and checked on a CPU."""
    reason = simt_library.why_not()
    if reason:
        pytest.skip(reason)
    torch.ops.load_library(simt_library.build())
    return torch.ops.s2t_ext_simt


@pytest.fixture
def simt(simt_ops):
    """The same, under the plainest schedule and the tuned split."""
    simt_ops.set_schedule("forward", "forward", 1, 0.0, 0)
    simt_ops.set_blocks_per_row(0)
    return simt_ops
