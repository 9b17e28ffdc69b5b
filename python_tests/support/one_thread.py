"""The fixture of the folders whose tests run tiny models; their conftest.py names it."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small only lose time to a second thread, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
