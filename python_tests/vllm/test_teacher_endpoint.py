"""Select-to-Think with a teacher on another server, between two servers on loopback."""

import concurrent.futures
import json
import urllib.error

import pytest
import torch
import transformers as hf
from completions_server import CompletionsServer
from vllm_requests import make_prompts
from vllm_server import Server, documented

import s2t_ext

pytestmark = pytest.mark.vllm

NEW = 20


@pytest.fixture(scope="module")
def teacher(tiny):
    """Another random model of the same vocabulary."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return hf.AutoModelForCausalLM.from_config(tiny.model.config).eval()


@pytest.fixture(scope="module")
def teacher_server(teacher):
    """Gives the log-probabilities of named ids, as vLLM does."""
    return CompletionsServer(teacher, names_ids=True)


@pytest.fixture(scope="module")
def server(tiny, teacher_server, tmp_path_factory):
    with teacher_server.running() as url:
        server = Server(tiny, tmp_path_factory.mktemp("server"), teacher=url)
        yield server
        server.close()


def ask(server, prompt, **options):
    """The answer to a request of the teacher's route; `options` are its vllm_xargs and fields."""
    xargs = {name: options.pop(name) for name in list(options) if name.startswith("s2t")}
    body = {"prompt": prompt, "max_tokens": NEW, "vllm_xargs": xargs, **options}
    return server.post("/v1/s2t/completions", json.dumps(body))


def expected(tiny, teacher, prompt, config, ends=()):
    tokens = s2t_ext.reference.decode_with_teacher(
        tiny.model,
        teacher,
        torch.tensor([prompt]),
        config=config,
        selector=tiny.selector,
        max_new_tokens=NEW,
        eos_token_ids=ends,
    )
    return tokens[0, len(prompt) :].tolist()


CASES = {
    "entropy": {"s2t_trigger": "entropy", "s2t_threshold": 3.6, "s2t_warmup_steps": 3},
    "margin": {"s2t_trigger": "margin", "s2t_threshold": 0.1, "s2t_warmup_steps": 0},
    "always": {"s2t_trigger": "always", "s2t_warmup_steps": 2, "s2t_k": 4},
    "with a margin": {"s2t_trigger": "always", "s2t_override_margin": 0.2, "s2t_k": 4},
    "random": {"s2t_trigger": "random", "s2t_threshold": 0.4, "s2t_warmup_steps": 0},
    "never": {"s2t_trigger": "never"},
}


@pytest.mark.parametrize("case", CASES)
def test_concurrent_clients_get_the_reference_s_tokens(server, tiny, teacher, case):
    options = CASES[case]
    values = {name.removeprefix("s2t_"): value for name, value in options.items()}
    config = s2t_ext.S2TConfig(select="teacher", **values)
    prompts = make_prompts((5, 31, 32, 70))
    with concurrent.futures.ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda p: ask(server, p, ignore_eos=True, **options), prompts))
    changed = sum(answer["s2t"]["changed"] for answer in answers)
    assert (changed > 0) == (case != "never")
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer["choices"][0]["token_ids"] == expected(tiny, teacher, prompt, config)
        assert answer["choices"][0]["finish_reason"] == "length"


def test_it_decodes_as_generate_does_with_the_same_server(server, teacher_server, tiny):
    config = s2t_ext.S2TConfig(select="teacher", trigger="entropy", threshold=3.6)
    (prompt,) = make_prompts((40,))
    with teacher_server.running() as url:
        tokens = s2t_ext.generate(
            tiny.model,
            torch.tensor([prompt]),
            s2t=config,
            selector=tiny.selector,
            teacher=s2t_ext.Teacher.from_server(url, "tiny"),
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
        )
    options = {"s2t_trigger": "entropy", "s2t_threshold": 3.6}
    answer = ask(server, prompt, ignore_eos=True, s2t_warmup_steps=3, **options)
    assert answer["choices"][0]["token_ids"] == tokens[0, len(prompt) :].tolist()


def test_a_stop_token_that_the_teacher_chooses_ends_the_answer(server, tiny, teacher):
    config = s2t_ext.S2TConfig(select="teacher", trigger="always", warmup_steps=0)
    (prompt,) = make_prompts((12,))
    whole = expected(tiny, teacher, prompt, config)
    answer = ask(
        server,
        prompt,
        ignore_eos=True,
        stop_token_ids=[whole[6]],
        s2t_trigger="always",
        s2t_warmup_steps=0,
    )
    (choice,) = answer["choices"]
    assert choice["token_ids"] == expected(tiny, teacher, prompt, config, ends=[whole[6]])
    assert choice["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == len(choice["token_ids"])


@pytest.mark.parametrize(
    "options, code, message",
    [
        ({"s2t_k": 99}, 400, "request: s2t_k must be in [1, 64], got 99"),
        ({"s2t_first_step": -1}, 400, "s2t_first_step must be an integer in [0, 2147483647]"),
        ({"temperature": 0.7}, 400, "temperature"),
        ({"best_of": 3}, 400, "best_of"),
        ({"seed": 2**70}, 400, "seed"),
    ],
)
def test_wrong_options_are_refused(server, options, code, message):
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(server, make_prompts((5,))[0], **options)
    assert error.value.code == code
    assert message in error.value.read().decode()


def test_a_teacher_that_fails_ends_one_request_only(server, teacher_server):
    (prompt,) = make_prompts((5,))
    teacher_server.faults = ["bad"] * 3  # named ids are asked for, then the likeliest instead
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(server, prompt, s2t_trigger="always", s2t_warmup_steps=0)
    teacher_server.faults = []
    assert error.value.code == 502
    assert "Teacher.from_server" in error.value.read().decode()
    assert ask(server, prompt, s2t_trigger="always")["choices"][0]["token_ids"]


def test_the_documentation_s_request(server):
    ((url, *rest),) = (
        call for call in documented("curl") if "/v1/s2t/" in call[0] and "-d" in call
    )
    answer = server.post(url.removeprefix("localhost:8000"), rest[rest.index("-d") + 1])
    assert answer["usage"]["completion_tokens"] > 0
    assert answer["s2t"]["triggers"] >= answer["s2t"]["changed"]


def test_a_pause_is_taken_once_and_the_latest_are_kept():
    from s2t_ext.vllm.pauses import REMEMBERED, Pauses

    pauses = Pauses()
    pauses.add(["a-0-1f", "b-0-2f"], torch.tensor([[5, 3, -1], [7, 8, 9]]))
    pauses.add(["a-0-1f"], torch.tensor([[1, 1, 1]]))  # it had ended, and ran once more
    assert pauses.take("a-0") == [5, 3]
    assert pauses.take("a-0") is None
    pauses.add([f"c-{i}" for i in range(REMEMBERED)], torch.ones(REMEMBERED, 1, dtype=torch.int64))
    assert pauses.take("b-0") is None
    assert pauses.take(f"c-{REMEMBERED - 1}") == [1]
    assert pauses.take(f"c-{REMEMBERED - 1}") is None
