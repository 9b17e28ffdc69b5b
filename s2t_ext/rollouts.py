"""Prompts in, tokens and the record out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from tqdm.auto import tqdm

from s2t_ext.config import S2TConfig
from s2t_ext.decoding.record import DecodingRecord, S2TGenerateOutput
from s2t_ext.generation import generate
from s2t_ext.hf.prompts import chat_prompt, pad_prompts, prompt_ids
from s2t_ext.hf.unwrapping import unwrap_model
from s2t_ext.runs.checks import require
from s2t_ext.selectors.selector import Selector
from s2t_ext.selectors.thresholds import resolve_trigger
from s2t_ext.triggers import TRIGGERS

#: Decoding as the model does by itself.
PLAIN = S2TConfig(trigger="never", proposer="base")
#: Options of a choice that a request to an engine sets.
ENGINE_OPTIONS = (
    *("trigger", "k", "support", "candidate_ratio", "warmup_steps"),
    *("score_temperature", "override_margin"),
)
#: Above every finite divergence, in float32.
_LARGE = 3e38


@dataclass(frozen=True)
class Rollouts:
    """A batch of answers.

    Attributes:
        prompts: Ids of each text, without padding.
        record: What was decoded and how; its rows are those of the texts, `paths` of them each.
        seconds: Wall-clock time of the decoding.
    """

    prompts: list[list[int]]
    record: DecodingRecord
    seconds: float

    @property
    def pairs(self) -> list[tuple[list[int], list[int]]]:
        """(prompt ids, response ids) of each text with one path; a response ends with its
        end-of-sequence token, if it got that far.
        """
        rows = zip(self.prompts, self.record.rows, strict=True)
        return [(prompt, list(row.tokens)) for prompt, row in rows]


def roll_out(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    max_new_tokens: int,
    s2t: S2TConfig = PLAIN,
    temperature: float = 0.0,
    top_p: float = 1.0,
    paths: int = 1,
    seeds: Sequence[int] | None = None,
    use_chat_template: bool = False,
    **options: Any,
) -> Rollouts:
    """Decodes a batch of texts.

    Args:
        model: The student, wrapped by PEFT or not.
        tokenizer: Its tokenizer.
        texts: What is answered.
        max_new_tokens: Length of a response at most.
        s2t: How it is decoded; the default is the model's own way.
        temperature: Of sampling over the whole vocabulary; 0 decodes greedily.
        top_p: Of sampling.
        paths: Responses per text; more than one only where they are sampled.
        seeds: The key of each response's random numbers, `paths` for each text in turn (see
            `s2t_ext.runs.seeds`); None takes one for all, for what draws no numbers.
        use_chat_template: Make each text a user turn.
        options: Further arguments of `s2t_ext.generate` and `model.generate`.

    Returns:
        The prompts' ids and the record.
    """
    if use_chat_template:
        texts = [chat_prompt(tokenizer, text) for text in texts]
    inputs = pad_prompts(tokenizer, texts, unwrap_model(model))
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": top_p}
        sampling |= {"num_return_sequences": paths} if paths > 1 else {}
    start = time.perf_counter()
    output = generate(
        model,
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        s2t=s2t,
        max_new_tokens=max_new_tokens,
        return_dict_in_generate=True,
        **{"seed": 0 if seeds is None else list(seeds), **sampling, **options},
    )
    seconds = time.perf_counter() - start
    assert isinstance(output, S2TGenerateOutput) and output.s2t is not None
    masks = inputs["attention_mask"].bool()
    prompts = [ids[mask].tolist() for ids, mask in zip(inputs["input_ids"], masks, strict=True)]
    return Rollouts(prompts, output.s2t, seconds)


@dataclass(frozen=True)
class EngineAnswer:
    """One response of a vLLM engine.

    Attributes:
        prompt: Its ids.
        response: Its ids; it ends with its end-of-sequence token, if it got that far.
        triggers: Steps at which the trigger fired.
        changed: Those at which another candidate than the likeliest was chosen.
    """

    prompt: list[int]
    response: list[int]
    triggers: int = 0
    changed: int = 0


def roll_out_in_engine(
    llm: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    max_new_tokens: int,
    seeds: Sequence[int],
    temperature: float = 0.0,
    top_p: float = 1.0,
    paths: int = 1,
    use_chat_template: bool = False,
    request_options: dict[str, Any] | None = None,
) -> list[EngineAnswer]:
    """`roll_out` in a vLLM engine, which serves all texts at once.

    The random numbers are vLLM's: sampled responses differ from those of `roll_out`.

    Args:
        llm: A `vllm.LLM` of the student.
        tokenizer: The student's.
        texts: As in `roll_out`.
        max_new_tokens: As in `roll_out`.
        seeds: The seed of each response, `paths` for each text in turn.
        temperature: As in `roll_out`.
        top_p: As in `roll_out`.
        paths: As in `roll_out`.
        use_chat_template: As in `roll_out`.
        request_options: How a request decodes by Select-to-Think (`docs/vllm.md`), for an engine
            with our worker; None: plainly.

    Returns:
        `paths` answers for each text in turn.

    Raises:
        ValueError: if the engine cannot decode by Select-to-Think.
    """
    if request_options is not None:
        _check_selecting_engine(llm)
    if use_chat_template:
        texts = [chat_prompt(tokenizer, text) for text in texts]
    prompts = [ids for ids in prompt_ids(tokenizer, texts) for _ in range(paths)]
    # Of the model's own generation settings `generate` applies the penalty too.
    defaults = llm.get_default_sampling_params()
    sampling: dict[str, Any] = {"temperature": 0.0}
    if temperature > 0:
        sampling = {"temperature": temperature, "top_p": top_p, "min_p": defaults.min_p}
    parameters = [
        type(defaults)(
            max_tokens=max_new_tokens,
            seed=seed,
            repetition_penalty=defaults.repetition_penalty,
            detokenize=False,
            extra_args={"s2t": "off"} if request_options is None else dict(request_options),
            **sampling,
        )
        for seed in seeds
    ]
    outputs = llm.generate(
        [{"prompt_token_ids": ids} for ids in prompts], parameters, use_tqdm=False
    )
    counts = {} if request_options is None else _counts_by_request(llm)
    return [
        EngineAnswer(
            prompt, list(output.outputs[0].token_ids), *counts.get(output.request_id, (0, 0))
        )
        for prompt, output in zip(prompts, outputs, strict=True)
    ]


def engine_options(config: S2TConfig | None, selector: Selector | None) -> dict[str, Any] | None:
    """What asks an engine to decode a request by `config`; None for plain decoding.

    Args:
        config: None, or one that chooses by a selector.
        selector: That the engine has been started with.

    Raises:
        ValueError: for choices that an engine does not make.
    """
    if config is None or (config.trigger == "never" and selector is None):
        return None
    rule = "choose by a selector ('local') or not at all in an engine"
    require(config.select == "local", "engine_options", "select", rule, repr(config.select))
    trigger = resolve_trigger(config, selector)
    options: dict[str, Any] = {name: getattr(config, name) for name in ENGINE_OPTIONS}
    options |= {"threshold": trigger.threshold} if trigger.has_threshold else {}
    return {f"s2t_{name}": value for name, value in options.items()}


def _check_selecting_engine(llm: Any) -> None:
    config = llm.llm_engine.vllm_config.additional_config
    rule = "have worker_cls='s2t_ext.vllm.Worker' and a selector, to decode by Select-to-Think"
    require("s2t" in config, "roll_out_in_engine", "llm", rule, "one without")


def _counts_by_request(llm: Any) -> dict[str, tuple[int, int]]:
    """Request id -> (triggers, changed); inside the engine vLLM appends a suffix to the id."""
    requests = llm.collective_rpc("s2t_statistics")[0]["requests"]
    return {
        name.partition("-")[0]: (counts["triggers"], counts["changed"])
        for name, counts in requests.items()
    }


def trigger_statistics(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    config: S2TConfig,
    *,
    batch_size: int,
    progress: bool | None = None,
    **options: Any,
) -> list[float]:
    """The statistic of a trigger at every step of the model's own rollouts but those of the warmup.

    Args:
        model: The student, wrapped by PEFT or not.
        tokenizer: Its tokenizer.
        texts: What is answered.
        config: Names the trigger, the warmup and the proposer; nothing is chosen.
        batch_size: Rollouts at a time.
        progress: Show a progress bar; None shows it on a terminal.
        options: Of `roll_out`.
    """
    kind = TRIGGERS[config.trigger]
    # A trigger that cannot fire does not ask its teacher.
    never = _LARGE if kind.reads_teacher else kind.unreachable
    config = replace(config, threshold=never)
    hidden = None if progress is None else not progress
    statistics: list[float] = []
    for start in tqdm(range(0, len(texts), batch_size), desc="calibrate", disable=hidden):
        some = texts[start : start + batch_size]
        rollouts = roll_out(model, tokenizer, some, s2t=config, **options)
        for row in rollouts.record.rows:
            statistics += row.statistics[config.warmup_steps :]
    return statistics
