"""The OpenAI server: concurrent clients, refusals as HTTP 400, statistics."""

import concurrent.futures
import json
import urllib.error

import pytest
import torch
from document_blocks import ROOT, blocks
from vllm_engine import environment
from vllm_requests import make_prompts, make_request
from vllm_server import Server, documented, entry_points, run_program

import s2t_ext
from s2t_ext import Teacher

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def server(tiny, tmp_path_factory):
    server = Server(tiny, tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.mark.parametrize("trigger, threshold", [("margin", 0.1), ("always", None)])
def test_concurrent_clients(server, tiny, trigger, threshold):
    config = s2t_ext.S2TConfig(trigger=trigger, threshold=threshold, warmup_steps=0)
    prompts = make_prompts((5, 31, 32, 70))
    requests = [make_request(prompt, config, 24) for prompt in prompts]
    with concurrent.futures.ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(server.complete, requests))
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer["choices"][0]["token_ids"] == tiny.reference(prompt, config, 24)


def test_wrong_options_get_http_400(server):
    config = s2t_ext.S2TConfig(trigger="never")
    request = make_request(make_prompts((5,))[0], config, 4)
    for extra_args, message in (
        ({"s2t_k": 99}, "request: s2t_k must be in [1, 64], got 99"),
        ({"s2t_width": 8}, "request: keys must be among s2t, s2t_trigger"),
    ):
        with pytest.raises(urllib.error.HTTPError) as error:
            server.complete({**request, "extra_args": extra_args})
        assert error.value.code == 400
        assert message in json.load(error.value)["error"]["message"]
    assert len(server.complete(request)["choices"][0]["token_ids"]) == 4


def test_statistics(server):
    config = s2t_ext.S2TConfig(trigger="always", warmup_steps=2)
    before = json.loads(server.get("/v1/s2t/statistics"))["total"]
    answer = server.complete(make_request(make_prompts((5,))[0], config, 6))
    report = json.loads(server.get(f"/v1/s2t/statistics?request_id={answer['id']}"))
    (counts,) = report["requests"].values()
    assert (counts["steps"], counts["triggers"]) == (6, 4)
    assert report["total"]["steps"] == before["steps"] + 6
    assert f"s2t_steps_total {report['total']['steps']}.0" in server.get("/v1/s2t/metrics")
    with pytest.raises(urllib.error.HTTPError) as error:
        server.get("/v1/s2t/statistics?request_id=nobody")
    assert error.value.code == 404


def test_the_server_as_a_teacher(server, tiny):
    """Log-probabilities of exactly the student's support, which vLLM's list of 20 would cut."""
    (ids,) = make_prompts((40,))
    first = 30
    logits = torch.randn(10, 1024, generator=torch.Generator().manual_seed(2))
    support = s2t_ext.ops.propose_candidates(logits, 64, 64)
    question = (torch.tensor(ids), first, support.ids, support.logits)
    expected = Teacher.from_model(tiny.model).label_trajectory(*question)
    plain = {"return_tokens_as_token_ids": True, "vllm_xargs": {"s2t": "off"}}
    teacher = Teacher.from_server(server.url, "MODEL", extra_body=plain)
    actual = teacher.label_trajectory(*question)
    assert teacher.mode == "ids"
    for name in ("kl", "candidate_logprobs"):
        torch.testing.assert_close(
            getattr(actual, name), getattr(expected, name), atol=1e-4, rtol=1e-4
        )
    assert torch.equal(actual.teacher_argmax, expected.teacher_argmax)


def test_the_documentation_s_requests(server):
    calls = [call for call in documented("curl") if "/v1/s2t/completions" not in call[0]]
    assert len(calls) == 4
    for url, *rest in calls:
        path = url.removeprefix("localhost:8000")
        if "-d" in rest:
            answer = server.post(path, rest[rest.index("-d") + 1])
            assert answer["usage"]["completion_tokens"] > 0
        else:
            assert "steps" in server.get(path)


def test_the_documentation_s_python(tiny, tmp_path):
    (block,) = (block for block in blocks(ROOT / "docs" / "vllm.md") if block.language == "python")
    code = block.code.replace("MODEL", str(tiny.folder))
    code = code.replace("SELECTOR", str(tiny.selector_folder))
    code = code.replace(
        "    worker_cls", '    dtype="float32", max_model_len=256,\n    worker_cls', 1
    )
    program = tmp_path / "page.py"
    program.write_text("if __name__ == '__main__':\n    " + code.replace("\n", "\n    ") + "\n")
    folder = tmp_path / "plugins"
    folder.mkdir()
    # Its three processes import vllm one after another: minutes where other programs run too.
    code, output, errors = run_program(program, environment(entry_points(folder)), timeout=900)
    assert code == 0, errors[-3000:]
    assert "'triggers'" in output
