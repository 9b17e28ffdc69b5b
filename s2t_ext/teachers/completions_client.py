"""A client for OpenAI-compatible completions servers: retries, deadlines, concurrency, and a cache
on disk in which every answer survives an interruption.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import random
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from s2t_ext.runs.checks import require

logger = logging.getLogger("s2t_ext")

CACHE_NAME = "completions.sqlite"
MAX_ANSWER_BYTES = 1 << 28

#: Who is called, in the messages of errors.
FROM_SERVER = "Teacher.from_server"


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


class AnswerCache:
    """Request -> answer on disk. Every entry is its own transaction: a killed process loses none.

    The key is the model's name and the request, not the server's address: a server that comes back
    elsewhere finds its answers. Use one folder per model if two servers share a name.
    """

    def __init__(self, folder: str | Path) -> None:
        path = Path(folder) / CACHE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False, timeout=60.0)
        try:
            with self._connection:
                self._connection.execute(
                    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT)"
                )
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"Teacher.from_server: cache_dir must hold a cache or nothing, got {path}: {error}"
            ) from error

    def get(self, key: str) -> Any:
        """The answer, or None."""
        with self._lock:
            query = "SELECT answer FROM answers WHERE key = ?"
            row = self._connection.execute(query, (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, key: str, answer: Any) -> None:
        """Stores an answer durably."""
        with self._lock, self._connection:
            self._connection.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(answer))
            )

    def __len__(self) -> int:
        with self._lock:
            count: int = self._connection.execute("SELECT count(*) FROM answers").fetchone()[0]
        return count


class CompletionsClient:
    """POSTs to /completions until there is a usable answer, or says which request had none.

    Args:
        url: Base of the server; "/v1" is added to an address without a path.
        model_name: As the server knows it.
        timeout: Seconds for one answer to arrive in full.
        retries: Further attempts after a failed one.
        backoff: Seconds before the first of them; doubles each time, with jitter; a server's
            Retry-After is honoured.
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
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._lock = threading.Lock()

    def complete(self, body: dict[str, Any], parse: Callable[[dict[str, Any]], Any]) -> Any:
        """parse(first choice) for one request; an answer it rejects is asked for again.

        Args:
            body: Fields of the request besides the model.
            parse: Turns `choices[0]` into JSON values, which is what the cache keeps; raises
                `UnusableAnswer` for one that lacks something.

        Raises:
            TeacherServerError: when all attempts have failed.
        """
        body = {"model": self.model_name, **self.extra_body, **body}
        data = json.dumps(body, sort_keys=True).encode()
        key = hashlib.sha256(data).hexdigest()
        if self.cache is not None:
            known = self.cache.get(key)
            if known is not None:
                return known
        answer = parse_with_retries(self, body, data, key, parse)
        if self.cache is not None:
            self.cache.put(key, answer)
        return answer

    def complete_all(
        self, bodies: Sequence[dict[str, Any]], parse: Callable[[dict[str, Any]], Any]
    ) -> list[Any]:
        """`complete` for every request, concurrently; if some fail, the others still reach the
        cache before the first error is raised.
        """
        if len(bodies) <= 1:
            return [self.complete(body, parse) for body in bodies]
        with ThreadPoolExecutor(min(self.concurrency, len(bodies))) as pool:
            futures = [pool.submit(self.complete, body, parse) for body in bodies]
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
        wait = client.backoff * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
        is_refusal = False
        try:
            return parse(client.post(data))
        except urllib.error.HTTPError as error:
            problem = f"status {error.code}: {_excerpt(error)}"
            if error.code not in (408, 409, 425, 429) and error.code < 500:
                is_refusal = True
            # A server that is there, and fails at this kind of request each time.
            is_refusal |= error.code == 500 and attempt == attempts
            wait = max(wait, _retry_after(error))
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
        time.sleep(wait)
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
        return min(60.0, float(error.headers.get("Retry-After", 0)))
    except ValueError:  # a date
        return 0.0
