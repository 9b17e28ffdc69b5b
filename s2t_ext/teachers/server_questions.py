"""What a completions server is asked about the next token, and how much it can say.

Every server lists the likeliest tokens. Some also give the log-probabilities of ids that a request
names (vLLM's `logprob_token_ids`), or of each prompt token (`echo`), and so of any candidate
appended to the prompt. The first question finds out which.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import count
from typing import Any

from s2t_ext.teachers.completions_client import CompletionsClient, TeacherServerError
from s2t_ext.teachers.server_answers import Position, TokenNames, parse_echo, parse_next

logger = logging.getLogger("s2t_ext")

MODES = ("auto", "ids", "exact", "top")

#: What an echoed log-probability may differ from the generated one, in nats: servers batch
#: differently and compute in half precision.
ECHO_TOLERANCE = 0.1


class Questions:
    """Questions to one server.

    Args:
        client: Talks to it.
        tokenizer: Its tokenizer.
        mode: See `ServerTeacher`.
        top_logprobs: See `ServerTeacher`.
        floor: See `ServerTeacher`.
        as_text: Whether prompts are sent as text.
    """

    def __init__(
        self,
        client: CompletionsClient,
        tokenizer: Any,
        *,
        mode: str,
        top_logprobs: int,
        floor: float | None,
        as_text: bool,
    ) -> None:
        self.client = client
        self.mode = mode
        self._tokenizer = tokenizer
        self._top_logprobs = top_logprobs
        self._floor = floor
        self._as_text = as_text
        self._names = TokenNames(tokenizer)

    def known_mode(self, prefix: list[int]) -> str:
        """One of `MODES` but "auto", which asks the server about `prefix` once."""
        if self.mode == "auto":
            (listed,) = self.next_tokens([prefix])
            if self._gives_named_ids(prefix, listed):
                self.mode = "ids"
            elif self._echo_is_right(prefix, listed):
                self.mode = "exact"
            else:
                self.mode = "top"
            logger.info("%s: mode %r", self.client.url, self.mode)
        return self.mode

    def next_tokens(
        self, prefixes: Sequence[list[int]], named: Sequence[Sequence[int]] | None = None
    ) -> list[Position]:
        """What the server says of the token after each prefix.

        Args:
            prefixes: Token ids.
            named: The ids that are wanted of each; negative ones are none. Without, the likeliest.
        """
        bodies = [self._body(prefix) for prefix in prefixes]
        if named is not None:
            bodies = [self._body(p, named=n) for p, n in zip(prefixes, named, strict=True)]
        try:
            records = self.client.complete_all(bodies, parse_next)
        except TeacherServerError as error:
            if named is None or self.mode == "auto" or not error.is_refusal:
                raise
            # A student with more rows than the teacher may have proposed one of those.
            logger.warning("%s: the likeliest tokens are asked for instead", error)
            return self.next_tokens(prefixes)
        return [Position(record, self._names, self._floor) for record in records]

    def trajectory(self, ids: list[int], first: int) -> list[Position]:
        """The likeliest tokens at each position from `first` on: one echo of the whole trajectory,
        or a request a step where there is no right echo.
        """
        if self.mode == "exact":
            body = self._body(ids, echo=True)
            records = self.client.complete(
                body, lambda c: parse_echo(c, len(ids), first), _echo_from(first)
            )
            return [Position(record, self._names, self._floor) for record in records]
        return self.next_tokens([ids[:end] for end in range(first, len(ids))])

    def fill_in(self, prefix: list[int], position: Position, candidates: list[int]) -> None:
        """Asks by echo for the candidates that the list of likeliest tokens lacks."""
        missing = [c for c in candidates if c >= 0 and c not in position]
        answers = self.client.complete_all(
            [self._body([*prefix, c], echo=True) for c in missing],
            lambda choice: parse_echo(choice, len(prefix) + 1, len(prefix)),
            _echo_from(len(prefix)),
        )
        for candidate, (record,) in zip(missing, answers, strict=True):
            position.add(candidate, record["chosen"][1])

    def _gives_named_ids(self, prefix: list[int], listed: Position) -> bool:
        """Whether the server names a token that its own list lacks."""
        token = next(token for token in count() if token not in listed)
        try:
            (answer,) = self.next_tokens([prefix], [[token]])
        except TeacherServerError as error:
            if error.is_refusal:
                return False
            raise
        return token in answer and answer.argmax == listed.argmax

    def _echo_is_right(self, prefix: list[int], listed: Position) -> bool:
        """Whether an echo gives the likeliest token the log-probability that the list gives it."""
        token = listed.argmax
        if self._as_text or token < 0:  # text may be cut into other tokens
            return False
        try:
            body = self._body([*prefix, token], echo=True)
            first = len(prefix)
            (record,) = self.client.complete(
                body, lambda c: parse_echo(c, first + 1, first), _echo_from(first)
            )
        except TeacherServerError as error:
            if error.is_refusal:
                return False
            raise
        echoed: float = record["chosen"][1]
        return abs(echoed - listed[token]) <= ECHO_TOLERANCE

    def _body(
        self, ids: list[int], echo: bool = False, named: Sequence[int] | None = None
    ) -> dict[str, Any]:
        prompt = self._tokenizer.decode(ids) if self._as_text else ids
        body = {
            "prompt": prompt,
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": self._top_logprobs,
        }
        if named is not None:
            body["logprob_token_ids"] = sorted({token for token in named if token >= 0})
        return {**body, "echo": True} if echo else body


def _echo_from(first: int) -> str:
    """Names the part of an echo that is kept: the same prompt may be echoed for its last token
    alone, and as a trajectory.
    """
    return f"from {first}"
