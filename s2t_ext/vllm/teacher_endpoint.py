"""Select-to-Think with a teacher on another server: POST /v1/s2t/completions.

A teacher's answer takes longer than an engine step, so nobody waits for it inside one. A request
ends where its trigger fires; this loop asks the teacher for the best of its candidates and goes on
with a new request, whose prompt the prefix cache holds. Other requests are decoded meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field
from vllm import SamplingParams
from vllm.entrypoints.serve.utils.api_utils import with_cancellation

from s2t_ext.teachers.completions_client import TeacherServerError
from s2t_ext.teachers.server import ServerTeacher
from s2t_ext.vllm.options import KEY, check_request

#: What a paused request ends with (`Selection.propose`); it belongs to no answer.
PAUSE_TOKEN = 0


class TeacherCompletionRequest(BaseModel):
    """The fields of OpenAI's completion request that are supported; others get HTTP 400.

    Attributes:
        prompt: Text, or token ids.
        model: Not looked at: a server has one.
        max_tokens: Of the answer.
        temperature: 0: greedy.
        seed: Of random triggers.
        ignore_eos: Whether to go on after the model's end token.
        stop_token_ids: Further tokens that end the answer.
        vllm_xargs: Options of this request, as for vLLM's own routes.
    """

    model_config = ConfigDict(extra="forbid")

    prompt: str | list[int]
    model: str | None = None
    max_tokens: int = Field(16, ge=1)
    temperature: float = Field(0.0, ge=0.0, le=0.0)
    seed: int = Field(0, ge=0, lt=2**63)
    ignore_eos: bool = False
    stop_token_ids: list[int] = []
    vllm_xargs: dict[str, str | int | float] = {}


@dataclass
class Answer:
    """A growing answer.

    Attributes:
        token_ids: Its tokens.
        finish_reason: "stop" or "length"; None while it grows.
        triggers: How often the teacher was asked.
        changed: How often it chose another candidate than the likeliest.
    """

    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    triggers: int = 0
    changed: int = 0


def attach(app: FastAPI) -> None:
    """Adds the route; a client that goes away ends its request."""
    app.add_api_route("/v1/s2t/completions", with_cancellation(completions), methods=["POST"])


def teacher_of(engine: Any) -> ServerTeacher | None:
    """The teacher that `--additional-config` names, or None."""
    options = (engine.vllm_config.additional_config.get(KEY) or {}).get("teacher")
    return None if options is None else ServerTeacher(**options)


async def completions(request: TeacherCompletionRequest, raw_request: Request) -> dict[str, Any]:
    """An answer in OpenAI's form, with its token ids and counts; HTTP 400 for what is refused, 502
    where the teacher does not answer.
    """
    engine, teacher = raw_request.app.state.s2t_engine, raw_request.app.state.s2t_teacher
    if teacher is None:
        raise HTTPException(
            400, 'completions: the server must be given {"s2t": {"teacher": ...}}, got none'
        )
    name = f"s2t-{uuid.uuid4().hex}"
    try:
        check_request(request.vllm_xargs)
        tokenizer = engine.renderer.get_tokenizer()
        prompt = request.prompt
        ids = tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        answer = await _complete(engine, teacher, name, ids, request)
    except TeacherServerError as error:
        raise HTTPException(502, str(error)) from error
    except ValueError as error:  # vLLM's refusals are ValueErrors too
        raise HTTPException(400, str(error)) from error
    text = tokenizer.decode(answer.token_ids, skip_special_tokens=True)
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": answer.finish_reason}
    new = len(answer.token_ids)
    return {
        "id": name,
        "object": "text_completion",
        "created": int(time.time()),
        "model": request.model or engine.model_config.model,
        "choices": [{**choice, "token_ids": answer.token_ids}],
        "usage": {
            "prompt_tokens": len(ids),
            "completion_tokens": new,
            "total_tokens": len(ids) + new,
        },
        "s2t": {"triggers": answer.triggers, "changed": answer.changed},
    }


async def _complete(
    engine: Any,
    teacher: ServerTeacher,
    name: str,
    prompt: list[int],
    request: TeacherCompletionRequest,
) -> Answer:
    """One request to the engine after another, until the answer ends."""
    answer, ends = Answer(), _end_tokens(engine, request)
    # The server's own margin is of its selector's totals.
    margin = float(request.vllm_xargs.get("s2t_override_margin", 0.0))
    most = min(request.max_tokens, engine.model_config.max_model_len - len(prompt))
    for part in itertools.count():
        part_name, done = f"{name}-{part}", len(answer.token_ids)
        output = await _next_part(
            engine, part_name, [*prompt, *answer.token_ids], most - done, done, request
        )
        answer.token_ids += output.token_ids
        candidates = None
        if output.token_ids and output.token_ids[-1] == PAUSE_TOKEN:
            candidates = (await engine.collective_rpc("s2t_take_pause", args=(part_name,)))[0]
        if candidates is not None:
            answer.token_ids.pop()
            prefix = [*prompt, *answer.token_ids]
            scores = await asyncio.to_thread(teacher.candidate_logprobs, prefix, candidates)
            best = scores.index(max(scores))  # of equals the likelier
            if margin and not scores[best] - scores[0] > margin:
                best = 0
            answer.token_ids.append(candidates[best])
            answer.triggers += 1
            answer.changed += best > 0
            if candidates[best] in ends:
                answer.finish_reason = "stop"
        elif output.finish_reason != "stop" or output.stop_reason != PAUSE_TOKEN:
            answer.finish_reason = output.finish_reason
        elif PAUSE_TOKEN in ends:
            answer.finish_reason = "stop"
        # else an ordinary token that only looks like a pause: the answer goes on
        if answer.finish_reason is None and len(answer.token_ids) >= most:
            answer.finish_reason = "length"
        if answer.finish_reason is not None:
            break
    return answer


def _end_tokens(engine: Any, request: TeacherCompletionRequest) -> set[int]:
    """The tokens that end the answer, of the request, the tokenizer and the model."""
    ends = set(request.stop_token_ids)
    if request.ignore_eos:
        return ends
    of_model = engine.model_config.try_get_generation_config().get("eos_token_id") or []
    ends.update([of_model] if isinstance(of_model, int) else of_model)
    of_tokenizer = engine.renderer.get_eos_token_id()
    return ends if of_tokenizer is None else ends | {of_tokenizer}


async def _next_part(
    engine: Any,
    name: str,
    prefix: list[int],
    most: int,
    done: int,
    request: TeacherCompletionRequest,
) -> Any:
    """vLLM's output from here to the next pause or the end."""
    parameters = SamplingParams(
        temperature=0.0,
        max_tokens=most,
        seed=request.seed,
        ignore_eos=request.ignore_eos,
        stop_token_ids=[PAUSE_TOKEN, *request.stop_token_ids],
        detokenize=False,
        extra_args={**request.vllm_xargs, "s2t_pause": 1, "s2t_first_step": done},
    )
    output = None
    async for answer in engine.generate({"prompt_token_ids": prefix}, parameters, name):
        output = answer.outputs[0]
    return output
