"""A teacher's server that misbehaves: asked again, named, and nothing lost."""

import sqlite3
import threading
import urllib.error

import pytest
from architectures import VOCAB
from completions_server import CompletionsServer
from server_teacher import decode, teacher_at

from s2t_ext import S2TConfig
from s2t_ext.teachers import completions_client
from s2t_ext.teachers.completions_client import CompletionsClient, TeacherServerError
from s2t_ext.teachers.server_answers import parse_next


@pytest.mark.parametrize(
    "fault", ["refuse", "slow", "drip", "text", "empty", "bare", "busy", "half"]
)
def test_a_passing_fault_is_asked_again(large, fault):
    server = CompletionsServer(large)
    server.faults = [fault, fault]
    with server.running() as url:
        client = CompletionsClient(url, "tiny", backoff=0.01, timeout=0.4, retries=2)
        record = client.complete({"prompt": [3, 4, 5], "max_tokens": 1, "logprobs": 2}, parse_next)
    assert len(record["top"]) == 2 and len(server.bodies) == 3 and client.requests >= 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("refuse", r"RemoteDisconnected|ConnectionReset"),
        ("slow", r"[Tt]imed? ?out"),
        ("drip", r"no complete answer within 0.4 s|[Tt]imed? ?out"),
        ("text", "JSONDecodeError"),
        ("empty", "no choices"),
        ("bare", "no log-probabilities"),
        ("busy", "status 503"),
        ("half", "IncompleteRead|Connection"),
    ],
)
def test_a_lasting_fault_names_the_request(large, fault, message):
    server = CompletionsServer(large)
    server.faults = [fault] * 9
    with server.running() as url:
        client = CompletionsClient(url, "tiny", backoff=0.01, timeout=0.4, retries=1)
        with pytest.raises(TeacherServerError, match=message) as caught:
            client.complete({"prompt": [3, 4, 5], "max_tokens": 1, "logprobs": 2}, parse_next)
    text = str(caught.value)
    assert (
        f"POST {url}/v1/completions for model 'tiny', prompt of 3 tokens ending in [3, 4, 5]"
        in text
    )
    assert "after 2 attempts" in text and len(server.bodies) == 2


def test_a_refused_request_is_not_repeated(large):
    server = CompletionsServer(large)
    server.faults = ["bad"]
    with server.running() as url:
        client = CompletionsClient(url, "tiny", backoff=0.01)
        with pytest.raises(TeacherServerError, match="status 400: .*no such model.* 1 attempt$"):
            client.complete({"prompt": [3], "logprobs": 2}, parse_next)
    assert len(server.bodies) == 1


def test_no_server_at_all():
    client = CompletionsClient("http://127.0.0.1:9", "tiny", backoff=0.01, retries=1)
    with pytest.raises(TeacherServerError, match="refused.* after 2 attempts"):
        client.complete({"prompt": [3], "logprobs": 2}, parse_next)


def test_a_server_that_dies_midway_loses_nothing(large, tmp_path):
    """What was answered before is in the cache: the second run asks only for the rest, of a server
    with another address, and ends where an undisturbed run ends.
    """
    config = S2TConfig(k=4, trigger="always", select="teacher", warmup_steps=0)
    options = {"cache_dir": tmp_path, "top_logprobs": VOCAB, "mode": "top"}
    server = CompletionsServer(large)
    with server.running() as url:
        expected, _ = decode(teacher_at(url, top_logprobs=VOCAB, mode="top"), config)
    total = len(server.bodies)
    dying = CompletionsServer(large)
    dying.dies_after = total // 2
    with dying.running() as url, pytest.raises(TeacherServerError, match="after 2 attempts"):
        decode(teacher_at(url, retries=1, **options), config)
    again = CompletionsServer(large)
    with again.running() as url:
        actual, record = decode(teacher_at(url, **options), config)
        assert actual == expected
        assert len(again.bodies) == total - total // 2 == record.teacher_forward_passes
    # Everything is known now: no server is needed.
    assert decode(teacher_at("http://127.0.0.1:9", **options), config)[0] == expected


def test_answers_beside_a_failed_one_are_kept(large, tmp_path):
    server = CompletionsServer(large)
    server.faults = [None, None, "bad", None, None]
    bodies = [{"prompt": [3, i], "logprobs": 2} for i in range(10, 15)]
    with server.running() as url:
        client = CompletionsClient(url, "tiny", cache_dir=tmp_path, concurrency=3)
        with pytest.raises(TeacherServerError, match="status 400"):
            client.complete_all(bodies, parse_next)
        assert len(client.cache) == 4
        assert len(client.complete_all(bodies, parse_next)) == 5
    assert len(server.bodies) == 6


def test_an_interrupted_write_leaves_the_cache_readable(large, tmp_path):
    """A writer killed inside its transaction leaves the entries before it."""
    with CompletionsServer(large).running() as url:
        client = CompletionsClient(url, "tiny", cache_dir=tmp_path)
        client.complete({"prompt": [3], "logprobs": 2}, parse_next)
    other = sqlite3.connect(tmp_path / "completions.sqlite")
    other.execute("INSERT INTO answers VALUES ('half', '{')")
    other.close()  # without a commit, as a killed process would
    fresh = CompletionsClient("http://127.0.0.1:9", "tiny", cache_dir=tmp_path)
    assert len(fresh.cache) == 1
    assert fresh.complete({"prompt": [3], "logprobs": 2}, parse_next)["top"]


def test_a_file_that_is_no_cache_is_refused(tmp_path):
    (tmp_path / "completions.sqlite").write_text("something else entirely" * 100)
    with pytest.raises(ValueError, match="cache_dir must hold a cache or nothing"):
        CompletionsClient("http://127.0.0.1:9", "tiny", cache_dir=tmp_path)


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "completions.sqlite").mkdir()
    with pytest.raises(OSError, match="cache_dir must be writable, got .*completions.sqlite: "):
        CompletionsClient("http://127.0.0.1:9", "tiny", cache_dir=tmp_path)


def test_a_cache_that_can_be_written_no_more_is_named(large, tmp_path):
    """As on a full disk: the table is gone, which is no more than an operation that fails."""
    with CompletionsServer(large).running() as url:
        client = CompletionsClient(url, "tiny", cache_dir=tmp_path)
        client.complete({"prompt": [3], "logprobs": 2}, parse_next)
        with sqlite3.connect(tmp_path / "completions.sqlite") as database:
            database.execute(
                "CREATE TRIGGER full BEFORE INSERT ON answers BEGIN SELECT none(); END"
            )
        with pytest.raises(OSError, match="cache_dir must be writable, got .*completions.sqlite: "):
            client.complete({"prompt": [4], "logprobs": 2}, parse_next)


def test_requests_that_have_not_begun_end_with_the_program(large, monkeypatch):
    """Ctrl-C does not wait for hundreds of questions that nobody wants answered any more."""

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(completions_client, "wait", interrupted)
    server = CompletionsServer(large)
    with server.running() as url:
        client = CompletionsClient(url, "tiny", backoff=0.01, concurrency=2)
        with server.lock, pytest.raises(KeyboardInterrupt):  # no answer before the interruption
            bodies = [{"prompt": [3, i], "logprobs": 2} for i in range(3, 60)]
            client.complete_all(bodies, parse_next)
        for thread in threading.enumerate():
            if thread.name.startswith("ThreadPoolExecutor"):
                thread.join()
    assert len(server.bodies) <= 2


def test_a_key_that_was_read_from_a_file_ends_with_its_line(large):
    seen = []

    class Listens(CompletionsServer):
        def handle(self, handler):
            seen.append(handler.headers["Authorization"])
            super().handle(handler)

    with Listens(large).running() as url:
        client = CompletionsClient(url, "tiny", api_key="secret\n", retries=0)
        client.complete({"prompt": [3], "logprobs": 2}, parse_next)
    assert seen == ["Bearer secret"]


@pytest.mark.parametrize("told", ["nan", "-5", "soon"])
def test_a_wait_that_is_no_time_is_not_waited(told):
    error = urllib.error.HTTPError("", 503, "", {"Retry-After": told}, None)
    assert completions_client._retry_after(error) == 0.0
