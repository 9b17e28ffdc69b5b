"""The worker class: vLLM's own for this platform, whose model runner decides some tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vllm.platforms import current_platform

from s2t_ext.vllm.deferred import DeferredRunner
from s2t_ext.vllm.layer_states import LayerStates
from s2t_ext.vllm.options import ServerOptions
from s2t_ext.vllm.runner_v1 import RunnerV1
from s2t_ext.vllm.runner_v2 import RunnerV2
from s2t_ext.vllm.selection import Selection

if TYPE_CHECKING or not current_platform.is_cpu():
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker
else:
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker


class Worker(PlatformWorker):
    """For `--worker-cls s2t_ext.vllm.Worker`, with the selector in `--additional-config`.

    Raises:
        ValueError: if the engine is set up in a way that choices cannot be made in.
    """

    def __init__(self, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        for reason in refusals(vllm_config):
            raise ValueError(f"s2t_ext.vllm: {reason}")
        self.s2t_server = ServerOptions(vllm_config.additional_config)
        super().__init__(vllm_config, *args, **kwargs)

    def init_device(self) -> None:
        """vLLM's, then the runner it made gets the class that decides."""
        super().init_device()
        runner = self.model_runner
        scheduler = self.vllm_config.scheduler_config
        ours: type = RunnerV1
        if self.use_v2_model_runner:
            ours = DeferredRunner if scheduler.async_scheduling else RunnerV2
        runner.__class__ = type(f"S2T{type(runner).__name__}", (ours, type(runner)), {})
        runner.s2t = Selection(self.s2t_server, self.device)
        # The buffers of the attention backends hold no more rows than this.
        largest = min(scheduler.max_num_seqs, scheduler.max_num_batched_tokens)
        runner.s2t_rows = min(self.s2t_server.lookahead_rows, largest)

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """vLLM's, then checks that the selector belongs to the model."""
        super().load_model(*args, **kwargs)
        selector, config = self.s2t_server.selector, self.vllm_config.model_config
        for name, expected, actual in (
            ("rows of the model's hidden size", config.get_hidden_size(), selector.hidden_size),
            (
                "the vocabulary size",
                config.get_vocab_size(),
                selector.base_model.get("vocab_size", config.get_vocab_size()),
            ),
        ):
            if expected != actual:
                raise ValueError(
                    f"s2t_ext.vllm: selector must have {name} {expected}, got {actual}"
                )
        runner = self.model_runner
        runner.s2t_layer = None
        if selector.layer is not None:
            runner.s2t_layer = LayerStates(
                runner.get_model(),
                selector.layer,
                config.hf_text_config.num_hidden_layers,
                self.vllm_config.scheduler_config.max_num_batched_tokens,
                selector.hidden_size,
            )

    def determine_available_memory(self) -> int:
        """vLLM's, less the scratch blocks."""
        specs = self.model_runner.get_kv_cache_spec().values()
        per_row: int = sum(spec.page_size_bytes for spec in specs)
        available: int = super().determine_available_memory()
        return available - per_row * int(self.model_runner.s2t_rows)

    def s2t_statistics(self, request_id: str | None = None) -> dict[str, object]:
        """For `collective_rpc("s2t_statistics")`: see `Statistics.report`."""
        report: dict[str, object] = self.model_runner.s2t.statistics.report(request_id)
        return report

    def s2t_take_pause(self, request_id: str) -> list[int] | None:
        """For `collective_rpc("s2t_take_pause")`: see `Pauses.take`."""
        candidates: list[int] | None = self.model_runner.s2t.pauses.take(request_id)
        return candidates


def refusals(vllm_config: Any) -> Iterator[str]:
    """Why choices cannot be made in an engine, one sentence per reason."""
    parallel, model = vllm_config.parallel_config, vllm_config.model_config
    for name in (
        "pipeline_parallel_size",
        "prefill_context_parallel_size",
        "decode_context_parallel_size",
    ):
        size = getattr(parallel, name)
        if size != 1:
            yield f"{name} must be 1, got {size}"
    if parallel.data_parallel_size > 1 and parallel.is_moe_model:
        yield (
            "data_parallel_size must be 1 for a mixture of experts (its ranks run in lock-step), "
            f"got {parallel.data_parallel_size}"
        )
    for argument, value in (
        ("speculative_config", vllm_config.speculative_config),
        ("lora_config", vllm_config.lora_config),
        ("kv_transfer_config", vllm_config.kv_transfer_config),
    ):
        if value is not None:
            yield f"{argument} must be unset, got {type(value).__name__}"
    for argument, is_set in (
        ("enable_prompt_embeds", model.enable_prompt_embeds),
        ("ubatching", parallel.use_ubatching),
        ("enable_batch_sharded_sampling", parallel.enable_batch_sharded_sampling),
        ("kv_sharing_fast_prefill", vllm_config.cache_config.kv_sharing_fast_prefill),
    ):
        if is_set:
            yield f"{argument} must be off, got on"
    for kind, is_kind in (
        ("a pooling model", model.runner_type != "generate"),
        ("an encoder-decoder", model.is_encoder_decoder),
        ("a model with M-RoPE", model.uses_mrope),
    ):
        if is_kind:
            yield f"model must be a decoder of text, got {kind}"
