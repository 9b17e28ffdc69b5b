import pytest
from one_thread import one_thread
from tiny_teachers import teacher_model

__all__ = ["large", "no_proxy", "one_thread"]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Loopback is reached directly, whatever the machine's proxy."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def large():
    return teacher_model()
