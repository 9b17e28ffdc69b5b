"""Refuses wrong options of a request where it is admitted: HTTP 400, or ValueError offline.

vLLM has one hook for this, the `validate_params` of a custom logits processor. The package names
the class under the entry points `vllm.logits_processors`; it changes no logits.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.sample.logits_processor import LogitsProcessor as LogitsProcessorV1
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as LogitsProcessorV2

from s2t_ext.vllm.options import check_request


class RequestCheck(LogitsProcessorV1, LogitsProcessorV2):
    """A logits processor of both model runners that only checks requests."""

    def __init__(self, vllm_config: Any, *runner_arguments: Any) -> None:
        pass

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raises ValueError if a key is unknown or a value is out of range."""
        check_request(sampling_params.extra_args)

    def is_argmax_invariant(self) -> bool:
        """It changes no logits at all."""
        return True

    def update_state(self, batch_update: Any) -> None:
        """It has no state."""

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """No request needs it."""
        return False

    def apply(self, logits: Any, *context: Any) -> Any:
        """The logits as they are."""
        return logits
