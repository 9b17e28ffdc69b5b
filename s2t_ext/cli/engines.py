"""vLLM engines on the command line."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from s2t_ext.cli.common import say
from s2t_ext.cli.options import DECODING
from s2t_ext.cli.teachers import is_server

if TYPE_CHECKING:
    from s2t_ext.config import S2TConfig
    from s2t_ext.teachers.base import Teacher

EngineName = Literal["transformers", "vllm"]

Engine = Annotated[
    EngineName,
    typer.Option(help="What decodes, and what runs a local teacher.", rich_help_panel=DECODING),
]
EngineOptions = Annotated[
    str | None,
    typer.Option(
        help='Arguments of vllm.LLM as JSON, e.g. {"gpu_memory_utilization": 0.4}.',
        rich_help_panel=DECODING,
        metavar="JSON",
    ),
]


def check_engine(engine: str, options: str | None, policy: str | None) -> dict[str, Any]:
    """The arguments in --engine-options; says no before a model is loaded.

    Args:
        engine: Of --engine.
        options: Of --engine-options.
        policy: Of --policy.
    """
    if engine != "vllm":
        if options is not None:
            raise ValueError(
                f"--engine-options must be left out without --engine vllm, got {options}"
            )
        return {}
    if importlib.util.find_spec("vllm") is None:
        raise ImportError("--engine vllm: vllm must be installed (pip install 's2t_ext[vllm]')")
    kind = re.split("[@:]", str(policy))[0]
    if kind in ("adapted", "teacher", "takeover", "s2t", "s2t-local-pps"):
        raise ValueError(
            f"--policy must ask no teacher and no base with --engine vllm, got {policy}"
        )
    from s2t_ext.runs.processes import this_process

    _, processes = this_process()
    if processes > 1:
        raise ValueError(
            "--engine vllm must run in one process (it spreads over devices by --engine-options "
            f"'{{\"tensor_parallel_size\": 2}}'), got {processes}"
        )
    try:
        arguments = json.loads(options or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise ValueError(f"--engine-options must be a JSON object, got {options}")
    return arguments


def longest_prompt(tokenizer: Any, texts: Sequence[str], use_chat_template: bool) -> int:
    """Tokens of the longest of the texts as they are asked."""
    from s2t_ext.hf.prompts import chat_prompt, prompt_ids

    if use_chat_template:
        texts = [chat_prompt(tokenizer, text) for text in texts]
    return max(len(ids) for ids in prompt_ids(tokenizer, texts))


#: Tokens of an engine step on a CPU, at least; vLLM's own number there.
_BATCHED_TOKENS = 4096


def load_engine(
    engines: ExitStack,
    model: str,
    dtype: str,
    length: int,
    arguments: dict[str, Any],
    selector: str | None = None,
    config: S2TConfig | None = None,
) -> Any:
    """A `vllm.LLM`.

    Args:
        engines: Ends it when it is left. Its processes hold the weights and the cache, and `adapt`
            goes on with other commands.
        model: Folder or hub repository.
        dtype: Of the weights.
        length: Tokens of the longest prompt and its answer.
        arguments: Of `vllm.LLM`, from --engine-options.
        selector: Folder or hub repository, for choices.
        config: How choices are made where a request does not say; None: it makes none.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm import LLM
    from vllm.platforms import current_platform

    options: dict[str, Any] = {"dtype": dtype, "max_model_len": length}
    if current_platform.is_cpu():
        # vLLM winds a sampled request's generator back after a part of its prompt, which those of a
        # CPU cannot ("CPU Generator does not use offset"): prompts stay whole.
        batched = max(length, _BATCHED_TOKENS)
        options |= {"enable_chunked_prefill": False, "max_num_batched_tokens": batched}
    if selector is not None:
        decoding = {**(config.to_dict() if config else {"trigger": "never"}), "selector": selector}
        options["worker_cls"] = "s2t_ext.vllm.Worker"
        options["additional_config"] = {"s2t": decoding}
    llm = LLM(model, **{**options, **arguments})
    engines.callback(llm.llm_engine.engine_core.shutdown)
    return llm


def load_engine_teacher(
    engines: ExitStack, teacher: str, dtype: str, length: int, arguments: dict[str, Any]
) -> Teacher | None:
    """A teacher inside an engine; None for a server, and, which is said, where vLLM cannot label.

    Args:
        engines: As of `load_engine`.
        teacher: Folder, hub repository or address.
        dtype: Of the weights.
        length: Tokens of the longest trajectory.
        arguments: Of `vllm.LLM`, from --engine-options.
    """
    if is_server(teacher):
        return None
    from transformers import AutoTokenizer
    from vllm.platforms import current_platform

    from s2t_ext.teachers import Teacher

    if current_platform.is_cpu() and os.environ.get("VLLM_USE_V2_MODEL_RUNNER") != "1":
        say("vLLM labels on its V2 model runner alone, which a CPU lacks: transformers labels")
        return None
    llm = load_engine(engines, teacher, dtype, length + 1, {"max_logprobs": 64, **arguments})
    return Teacher.from_vllm(llm, AutoTokenizer.from_pretrained(teacher))
