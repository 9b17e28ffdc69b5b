"""Reading the log-probabilities in a completions server's answer.

Two shapes are in use: OpenAI's lists (`tokens`, `token_logprobs`, `top_logprobs`; vLLM,
llama-cpp-python) and a list of entries (`content`; llama.cpp). Both become records

    {"chosen": [name, log-probability], "top": [[name, log-probability], ...]}

where a name is a token id, or text where the server gives no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from s2t_ext.teachers.completions_client import UnusableAnswer

_ID_PREFIX = "token_id:"

Record = dict[str, Any]


def parse_next(choice: dict[str, Any]) -> Record:
    """The record of the one generated token."""
    records = list(_records(choice))
    if len(records) != 1:
        raise UnusableAnswer(f"log-probabilities of {len(records)} tokens instead of 1")
    if not records[0]["top"]:
        raise UnusableAnswer("no likeliest tokens")
    return records[0]


def parse_echo(choice: dict[str, Any], length: int, first: int) -> list[Record]:
    """The records of prompt tokens first..length-1 of an echoed prompt of `length` tokens."""
    records = list(_records(choice))
    if len(records) not in (length, length + 1):  # with or without the generated token
        raise UnusableAnswer(f"log-probabilities of {len(records)} tokens instead of {length}")
    wanted = records[first:length]
    if any(record["chosen"][1] is None for record in wanted):
        raise UnusableAnswer("no log-probability of a prompt token")
    return wanted


class TokenNames:
    """From the names servers give tokens to ids."""

    def __init__(self, tokenizer: Any = None) -> None:
        self.tokenizer = tokenizer
        self._ids: dict[str, int] | None = None

    def id_of(self, name: int | str) -> int:
        """The id, or -1 if it is not known, or several tokens have this text."""
        if isinstance(name, int):
            return max(name, -1)
        if name.startswith(_ID_PREFIX) and name[len(_ID_PREFIX) :].isdecimal():
            return int(name[len(_ID_PREFIX) :])
        if self._ids is None:
            self._ids = {} if self.tokenizer is None else self._by_text()
        return self._ids.get(name, -1)

    def _by_text(self) -> dict[str, int]:
        ids: dict[str, int] = {}
        every = sorted(set(self.tokenizer.get_vocab().values()))
        for index, text in zip(
            every, self.tokenizer.batch_decode([[i] for i in every]), strict=True
        ):
            # Parts of a character all decode to the same replacement character.
            ids[text] = -1 if text in ids else index
        return ids


class Position:
    """The teacher's view of one next token: id -> log-probability, with a floor for the others.

    Attributes:
        argmax: The likeliest token's id, -1 if the server's name for it has no id.
        floor: Log-probability of a token that is not listed.
    """

    def __init__(self, record: Record, names: TokenNames, floor: float | None = None) -> None:
        top = [(name, float(value)) for name, value in record["top"]]
        name, value = record["chosen"]
        if value is not None:
            top.append((name, float(value)))
        self._logprobs: dict[int, float] = {}
        self._listed = [(names.id_of(name), value) for name, value in top]
        for index, value in self._listed:
            if index >= 0:
                self._logprobs.setdefault(index, value)
        self.argmax = self.best()
        self.floor = _largest_unlisted(record["top"]) if floor is None else floor

    def best(self, limit: float = math.inf) -> int:
        """The likeliest token whose id is below `limit`, the first of equals: ids from there on are
        no tokens of the student. -1 if the server's name for it has no id, or there is none.
        """
        known = [(value, index) for index, value in self._listed if index < limit]
        return max(known, key=lambda one: one[0], default=(-math.inf, -1))[1]

    def add(self, token: int, logprob: float) -> None:
        """Adds what a further request has found out."""
        self._logprobs[token] = logprob

    def listed(self, limit: float = math.inf) -> dict[int, float]:
        """Log-probabilities of the tokens whose ids are known and below `limit`."""
        return {token: value for token, value in self._logprobs.items() if token < limit}

    def __contains__(self, token: int) -> bool:
        return token in self._logprobs

    def __getitem__(self, token: int) -> float:
        """The log-probability of an id; -inf for -1."""
        return self._logprobs.get(token, self.floor) if token >= 0 else -math.inf


def _largest_unlisted(top: list[tuple[Any, float]]) -> float:
    """The largest log-probability a token outside the list can have."""
    if not top:
        return 0.0
    values = [value for _, value in top]
    rest = 1.0 - math.fsum(math.exp(value) for value in values)
    return min(min(values), math.log(rest) if rest > 0 else math.inf)


def _records(choice: dict[str, Any]) -> Iterator[Record]:
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        raise UnusableAnswer("no log-probabilities")
    try:
        if isinstance(logprobs.get("content"), list):
            yield from (_entry(entry) for entry in logprobs["content"])
            return
        columns = logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"]
        for name, value, top in zip(*columns, strict=True):
            listed = [[key, _logprob(v)] for key, v in (top or {}).items()]
            yield {"chosen": [_name(name), _logprob(value)], "top": listed}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UnusableAnswer(f"log-probabilities of unknown shape: {error!r}") from error


def _entry(entry: dict[str, Any]) -> Record:
    top = [[_name_in(item), _logprob(item["logprob"])] for item in entry["top_logprobs"]]
    return {"chosen": [_name_in(entry), _logprob(entry["logprob"])], "top": top}


def _name_in(entry: dict[str, Any]) -> int | str:
    """The id, or the text where there is none."""
    return _name(entry["token"] if entry.get("id") is None else entry["id"])


def _name(name: Any) -> int | str:
    if isinstance(name, (int, str)):
        return name
    raise TypeError(f"{name!r} names no token")


def _logprob(value: Any) -> float | None:
    """A log-probability; rounding may lift it a little above 0. None stays (the first token)."""
    if value is None:
        return None
    number = float(value)
    if math.isnan(number) or number > 1e-3:
        raise ValueError(f"{number} is no log-probability")
    return max(-1e4, min(0.0, number))  # JSON has no infinity; servers send -9999 or the like
