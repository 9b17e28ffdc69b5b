"""A client for OpenAI-compatible completions servers: retries, deadlines, concurrency, and a cache
of answers.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from s2t_ext.runs.checks import require
from s2t_ext.runs.numbers import finite, integer
from s2t_ext.teachers.answer_cache import FROM_SERVER, AnswerCache

logger = logging.getLogger("s2t_ext")

MAX_ANSWER_BYTES = 1 << 28
#: Seconds between two attempts at most.
MAX_PAUSE = 60.0


class TeacherServerError(RuntimeError):
    """A request that failed for good; the message names it.

    Attributes:
        is_refusal: The server understood and declined (a 4xx status, 500 at every attempt, or
            an answer without what was asked for), so that asking again would not help.
    """

    def __init__(self, message: str, is_refusal: bool = False) -> None:
        super().__init__(message)
        self.is_refusal = is_refusal


class UnusableAnswer(ValueError):
    """An answer that is JSON but lacks what was asked for; raised by the parsers of answers."""


class CompletionsClient:
    """POSTs to /completions until there is a usable answer, or says which request had none.

    Args:
        url: Base of the server; "/v1" is added to an address without a path.
        model_name: As the server knows it.
        timeout: Seconds for one answer to arrive in full.
        retries: Further attempts after a failed one.
        backoff: Seconds before the first of them; doubles each time up to a minute, with jitter; a
            server's Retry-After is honoured.
        concurrency: Requests in flight at a time.
        cache_dir: Folder of the cache; None keeps none.
        api_key: Sent as a bearer token.
        extra_body: Further fields of every request.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        url: str,
        model_name: str,
        *,
        timeout: float = 60.0,
        retries: int = 4,
        backoff: float = 0.5,
        concurrency: int = 8,
        cache_dir: str | Path | None = None,
        api_key: str | None = None,
        extra_body: dict[str, Any] | None = None,
    ) -> None:
        parts = urlsplit(url)
        require(
            parts.scheme in ("http", "https") and parts.netloc,
            FROM_SERVER,
            "url",
            "be http(s)://...",
            url,
        )
        timeout, backoff = (
            finite(FROM_SERVER, *one) for one in (("timeout", timeout), ("backoff", backoff))
        )
        retries = integer(FROM_SERVER, "retries", retries)
        concurrency = integer(FROM_SERVER, "concurrency", concurrency)
        require(timeout > 0, FROM_SERVER, "timeout", "be above 0 seconds", timeout)
        require(retries >= 0, FROM_SERVER, "retries", "be at least 0", retries)
        require(backoff >= 0, FROM_SERVER, "backoff", "be at least 0 seconds", backoff)
        require(concurrency >= 1, FROM_SERVER, "concurrency", "be at least 1", concurrency)
        base = url.rstrip("/") if parts.path.strip("/") else url.rstrip("/") + "/v1"
        self.url = base + "/completions"
        self.model_name = model_name
        self.timeout = timeout
        self.retries = retries
        self.backoff = backoff
        self.concurrency = concurrency
        self.extra_body = dict(extra_body or {})
        self.cache = None if cache_dir is None else AnswerCache(cache_dir)
        #: Requests answered by the server so far (not by the cache).
        self.requests = 0
        self._headers = {"Content-Type": "application/json"}
        if api_key is not None:  # one that was read from a file ends with its line
            self._headers["Authorization"] = f"Bearer {api_key.strip()}"
        self._lock = threading.Lock()

    def complete(
        self, body: dict[str, Any], parse: Callable[[dict[str, Any]], Any], part: str = ""
    ) -> Any:
        """parse(first choice) for one request; an answer it rejects is asked for again.

        Args:
            body: Fields of the request besides the model.
            parse: Turns `choices[0]` into JSON values, which is what the cache keeps; raises
                `UnusableAnswer` for one that lacks something.
            part: Names what `parse` takes of an answer, where the same request may be parsed in
                several ways: the cache keeps them apart.

        Raises:
            TeacherServerError: when all attempts have failed.
        """
        body = {"model": self.model_name, **self.extra_body, **body}
        data = json.dumps(body, sort_keys=True).encode()
        key = hashlib.sha256(data + part.encode()).hexdigest()
        if self.cache is not None:
            known = self.cache.get(key)
            if known is not None:
                return known
        answer = parse_with_retries(self, body, data, key, parse)
        if self.cache is not None:
            self.cache.put(key, answer)
        return answer

    def complete_all(
        self,
        bodies: Sequence[dict[str, Any]],
        parse: Callable[[dict[str, Any]], Any],
        part: str = "",
    ) -> list[Any]:
        """`complete` for every request, concurrently; if some fail, the others still reach the
        cache before the first error is raised. After Ctrl-C those that have not begun never do.
        """
        if len(bodies) <= 1:
            return [self.complete(body, parse, part) for body in bodies]
        pool = ThreadPoolExecutor(min(self.concurrency, len(bodies)))
        try:
            futures = [pool.submit(self.complete, body, parse, part) for body in bodies]
            wait(futures)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return [future.result() for future in futures]

    def post(self, data: bytes) -> dict[str, Any]:
        """One attempt: the first choice of the answer."""
        deadline = time.monotonic() + self.timeout
        request = urllib.request.Request(self.url, data, self._headers, method="POST")
        content = bytearray()
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            # The socket's timeout is per read; a server that drips must not hold us for ever.
            while block := response.read1(1 << 16):
                content += block
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no complete answer within {self.timeout:g} s")
                if len(content) > MAX_ANSWER_BYTES:
                    raise UnusableAnswer(f"more than {MAX_ANSWER_BYTES} bytes")
            if response.length:  # read1 ends quietly where the connection does
                raise http.client.IncompleteRead(bytes(content), response.length)
        with self._lock:
            self.requests += 1
        return _first_choice(bytes(content))


def parse_with_retries(
    client: CompletionsClient,
    body: dict[str, Any],
    data: bytes,
    key: str,
    parse: Callable[[dict[str, Any]], Any],
) -> Any:
    """The attempts behind `CompletionsClient.complete`."""
    attempts = client.retries + 1
    for attempt in range(1, attempts + 1):
        pause = client.backoff * 2.0 ** min(attempt - 1, 1000) * random.uniform(0.75, 1.25)
        pause = min(pause, MAX_PAUSE)
        is_refusal = False
        try:
            return parse(client.post(data))
        except urllib.error.HTTPError as error:
            problem = f"status {error.code}: {_excerpt(error)}"
            if error.code not in (408, 409, 425, 429) and error.code < 500:
                is_refusal = True
            # A server that is there, and fails at this kind of request each time.
            is_refusal |= error.code == 500 and attempt == attempts
            pause = max(pause, _retry_after(error))
        except UnusableAnswer as error:
            problem = f"an answer without what was asked for ({error})"
            is_refusal = attempt == attempts
        except (OSError, http.client.HTTPException, ValueError) as error:
            # OSError: refused, reset, timed out. ValueError: not JSON.
            problem = f"{type(error).__name__}: {error}"
        if is_refusal or attempt == attempts:
            raise TeacherServerError(
                f"Teacher.from_server: server must answer POST {client.url} for "
                f"{_describe(body)} (request {key[:12]}), got {problem} after {attempt} "
                f"attempt{'s' if attempt > 1 else ''}",
                is_refusal,
            )
        logger.info("%s: attempt %d of %d failed: %s", client.url, attempt, attempts, problem)
        time.sleep(pause)
    raise AssertionError("unreachable")


def _first_choice(content: bytes) -> dict[str, Any]:
    answer = json.loads(content)
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise UnusableAnswer(f"no choices in {content[:200]!r}")
    return choices[0]


def _describe(body: dict[str, Any]) -> str:
    prompt = body.get("prompt", "")
    unit = "characters" if isinstance(prompt, str) else "tokens"
    ends = f"{prompt[-40:]!r}" if isinstance(prompt, str) else f"{list(prompt[-4:])}"
    echo = ", echo" if body.get("echo") else ""
    return f"model {body.get('model')!r}, prompt of {len(prompt)} {unit} ending in {ends}{echo}"


def _excerpt(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(500).decode(errors="replace").strip() or error.reason
    except OSError:
        return str(error.reason)


def _retry_after(error: urllib.error.HTTPError) -> float:
    try:
        seconds = float(error.headers.get("Retry-After", 0))
    except ValueError:  # a date
        return 0.0
    return min(MAX_PAUSE, seconds) if seconds > 0 else 0.0  # not for NaN either
