"""Select-to-Think inside vLLM: continuous batching, several requests, several devices, on the
unmodified engine.

    vllm serve MODEL --worker-cls s2t_ext.vllm.Worker \
        --additional-config '{"s2t": {"selector": "PATH"}}'

Only this package imports vllm; its names are loaded when first used.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2t_ext.vllm.endpoint import StatisticsEndpoint
    from s2t_ext.vllm.request_check import RequestCheck
    from s2t_ext.vllm.worker import Worker

__all__ = ["RequestCheck", "StatisticsEndpoint", "Worker"]

_MODULES = {
    "RequestCheck": "request_check",
    "StatisticsEndpoint": "endpoint",
    "Worker": "worker",
}

if importlib.util.find_spec("vllm") is None:
    raise ImportError(
        "s2t_ext.vllm: vllm must be installed (pip install 's2t_ext[vllm]'), got no such package"
    )


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 's2t_ext.vllm' has no attribute '{name}'")
    return getattr(importlib.import_module(f"s2t_ext.vllm.{_MODULES[name]}"), name)
