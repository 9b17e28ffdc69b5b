"""Options: those of the server, from `--additional-config`, and those of one request, from its
`vllm_xargs` (HTTP) or `SamplingParams.extra_args` (offline).
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from s2t_ext.config import S2TConfig
from s2t_ext.selectors.selector import Selector
from s2t_ext.selectors.thresholds import resolve_trigger
from s2t_ext.triggers import TRIGGERS as ALL_TRIGGERS
from s2t_ext.triggers import Trigger

#: The key of the server's options in `--additional-config`, and of a request's on/off switch.
KEY = "s2t"
#: A request's key is this and the name of an option of `S2TConfig`.
PREFIX = "s2t_"
#: Options a request may set for itself.
REQUEST_OPTIONS = (
    "trigger",
    "threshold",
    "k",
    "support",
    "candidate_ratio",
    "warmup_steps",
    "score_temperature",
    "override_margin",
)
#: What else a request may set, integers in [0, MOST]: see `RequestOptions`.
REQUEST_NUMBERS = ("pause", "first_step")
MOST = 2**31 - 1
#: All triggers but those that would need the teacher's distribution at every step.
TRIGGERS = tuple(name for name, trigger in ALL_TRIGGERS.items() if not trigger.reads_teacher)


@dataclass(frozen=True)
class RequestOptions:
    """How one request decodes.

    Attributes:
        config: The server's options with the request's own.
        trigger: The trigger with its threshold resolved.
        seed: Key of its random triggers and of choices with a score temperature.
        pauses: Whether the request ends where its trigger fires, and its candidates are kept for
            whoever chooses (`s2t_take_pause`).
        first_step: How many tokens of the response the prompt ends with.
    """

    config: S2TConfig
    trigger: Trigger
    seed: int
    pauses: bool = False
    first_step: int = 0


class ServerOptions:
    """What `--additional-config '{"s2t": {...}}'` says.

    Args:
        additional_config: vLLM's dictionary. Under "s2t": `selector`, a folder or hub repository
            (needed); `teacher`, the arguments of `Teacher.from_server`, for `/v1/s2t/completions`;
            `lookahead_rows`, how many candidates one forward pass holds (default 256, at most
            `max_num_seqs`); and any option of `S2TConfig`, which replaces the selector's own.

    Raises:
        ValueError: if a key is unknown, a value out of range, or the selector cannot decode here.
    """

    def __init__(self, additional_config: Mapping[str, Any]) -> None:
        given = additional_config.get(KEY)
        options = dict(given) if isinstance(given, Mapping) else {}
        if not options:
            _refuse("additional_config", f'hold the key "{KEY}" with a dictionary', given)
        path = options.pop("selector", None)
        if not isinstance(path, str):
            _refuse("selector", "be the path of a selector", path)
        self.teacher = options.pop("teacher", None)
        if self.teacher is not None and not is_teacher(self.teacher):
            _refuse("teacher", "be a dictionary with url and model_name", self.teacher)
        self.lookahead_rows = options.pop("lookahead_rows", 256)
        is_count = isinstance(self.lookahead_rows, int) and self.lookahead_rows >= 1
        if not is_count or isinstance(self.lookahead_rows, bool):
            _refuse("lookahead_rows", "be an integer of at least 1", self.lookahead_rows)
        known = {field.name for field in fields(S2TConfig)}
        for name in options.keys() - known:
            allowed = ", ".join(("selector", "teacher", "lookahead_rows", *sorted(known)))
            _refuse("additional_config", f"use keys among {allowed}", name)
        self.selector = Selector.from_pretrained(path)
        stored = self.selector.decoding or S2TConfig()
        self.config = S2TConfig(**{**stored.to_dict(), **options})
        self._resolved: dict[str, RequestOptions | None] = {}
        self._check_config()

    def _check_config(self) -> None:
        config = self.config
        if config.select != "local":
            _refuse("select", "be 'local' (choices by the selector)", config.select)
        if config.proposer != "adapted":
            _refuse("proposer", "be 'adapted' (a base proposer needs a second cache)", "'base'")
        if config.trigger not in TRIGGERS:
            _refuse("trigger", f"be one of {', '.join(TRIGGERS)}", config.trigger)
        resolve_trigger(config, self.selector)

    def of_request(
        self, extra_args: Mapping[str, Any] | None, request_id: str, seed: int | None
    ) -> RequestOptions | None:
        """The options of one request; None if it is decoded by the plain model.

        Args:
            extra_args: The request's `vllm_xargs`.
            request_id: Stands in for a seed, so that requests without one differ.
            seed: The request's own seed, or None.

        Raises:
            ValueError: as `check_request`, or if the selector lacks what the trigger needs.
        """
        own = {name: value for name, value in (extra_args or {}).items() if _is_ours(name)}
        key = json.dumps(own, sort_keys=True, default=repr) if own else ""
        if key not in self._resolved:
            if len(self._resolved) > 1000:  # clients choose the keys
                self._resolved.clear()
            self._resolved[key] = self._resolve(own)
        resolved = self._resolved[key]
        if resolved is None:
            return None
        return replace(resolved, seed=zlib.crc32(request_id.encode()) if seed is None else seed)

    def _resolve(self, own: Mapping[str, Any]) -> RequestOptions | None:
        overrides = check_request(own)
        if overrides is None:
            return None
        pauses, first_step = (int(overrides.pop(name, 0)) for name in REQUEST_NUMBERS)
        config = _merge(self.config, overrides)
        trigger = resolve_trigger(config, self.selector)
        return RequestOptions(config, trigger, 0, pauses > 0, first_step)


def check_request(extra_args: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Checks a request's keys and values, without knowing the server's selector.

    Whether a value is allowed therefore depends on the request alone: a threshold belongs to the
    trigger given with it, and of `k` and `support` the one that is given decides.

    Args:
        extra_args: The request's `vllm_xargs`; keys without our prefix are not looked at.

    Returns:
        Options of `S2TConfig` to replace the server's, and `REQUEST_NUMBERS`; None for
        `"s2t": "off"`.

    Raises:
        ValueError: if a key is unknown or a value out of range.
    """
    own = {name: value for name, value in (extra_args or {}).items() if _is_ours(name)}
    switch = own.pop(KEY, "on")
    if switch not in ("on", "off"):
        _refuse_request(KEY, "be 'on' or 'off'", switch)
    overrides = {}
    for name, value in own.items():
        option = name.removeprefix(PREFIX)
        if option not in REQUEST_OPTIONS + REQUEST_NUMBERS:
            names = (PREFIX + option for option in REQUEST_OPTIONS + REQUEST_NUMBERS)
            allowed = ", ".join([KEY, *names])
            raise ValueError(f"request: keys must be among {allowed}, got {name!r}")
        overrides[option] = value
    trigger, threshold = overrides.get("trigger"), overrides.get("threshold")
    if "trigger" in overrides and trigger not in TRIGGERS:
        _refuse_request("s2t_trigger", f"be one of {', '.join(TRIGGERS)}", trigger)
    if trigger is not None and ALL_TRIGGERS[trigger].has_threshold and threshold is None:
        _refuse_request("s2t_threshold", f"be given with s2t_trigger={trigger!r}", None)
    if "threshold" in overrides and trigger is None:
        _refuse_request("s2t_trigger", "be given with s2t_threshold", None)
    decoding = {name: v for name, v in overrides.items() if name not in REQUEST_NUMBERS}
    for name in overrides.keys() - decoding.keys():
        value = overrides[name]
        if not isinstance(value, int) or not 0 <= value <= MOST:
            _refuse_request(PREFIX + name, f"be an integer in [0, {MOST}]", value)
    for option, value in decoding.items():
        _check_option({"k": 1, "support": 0, option: value})
    _check_option({"support": 0, **decoding})
    return None if switch == "off" else overrides


def is_teacher(value: object) -> bool:
    """Whether it has what `Teacher.from_server` cannot do without."""
    return isinstance(value, dict) and {"url", "model_name"} <= value.keys()


def _check_option(options: dict[str, Any]) -> None:
    """The checks of S2TConfig, with the names a request uses."""
    try:
        config = S2TConfig(**options)
    except ValueError as error:
        message = str(error).replace("S2TConfig: ", "request: s2t_", 1)
        raise ValueError(message) from None
    if config.threshold is not None and math.isinf(config.threshold):
        _refuse_request("s2t_threshold", "be finite", config.threshold)


def _merge(config: S2TConfig, overrides: Mapping[str, Any]) -> S2TConfig:
    options = {**config.to_dict(), **overrides}
    if "trigger" in overrides:  # the server's threshold belongs to the server's trigger
        options["threshold"] = overrides.get("threshold")
    if options["support"]:
        if "support" not in overrides:
            options["support"] = max(options["support"], options["k"])
        elif "k" not in overrides:
            options["k"] = min(options["k"], options["support"])
    return S2TConfig(**options)


def _is_ours(name: str) -> bool:
    return name == KEY or name.startswith(PREFIX)


def _refuse(argument: str, rule: str, value: Any) -> None:
    raise ValueError(f"s2t_ext.vllm: {argument} must {rule}, got {value}")


def _refuse_request(argument: str, rule: str, value: Any) -> None:
    raise ValueError(f"request: {argument} must {rule}, got {value!r}")
