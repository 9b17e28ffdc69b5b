"""Exported folders decode with Select-to-Think wherever transformers loads them."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from document_blocks import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import s2t_ext
from s2t_ext import S2TConfig, Selector, export
from s2t_ext.demo import ASSETS

PROMPT = (
    "Fiona has 61 berries at the gallery . "
    "one eats 8 . two gets 10 . three loses 2 . four finds 3 . how many now ?"
)
GREEDY, SELECTED = "65 .", "64 ."  # how the embedded student's answers end
OPTIONS = {"max_new_tokens": 56, "do_sample": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The embedded student with its selector, which is proposal-preserving, exported."""
    output = tmp_path_factory.mktemp("exported")
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "student", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "student")
    tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    export("s2t_ext/demo", model, tokenizer, output)
    return output


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def modules_cache(tmp_path, monkeypatch):
    """Code of repositories is copied there; by default into the user's home."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))


def answer(tokenizer, ids):
    return tokenizer.decode(ids[0], skip_special_tokens=True)


def test_a_folder_decodes_when_its_code_is_trusted(folder, tokenizer, modules_cache):
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    output = model.generate(**inputs, **OPTIONS, return_dict_in_generate=True)
    assert answer(tokenizer, output.sequences).endswith(SELECTED)
    assert output.s2t.changed_tokens > 0
    never = model.generate(**inputs, **OPTIONS, s2t=S2TConfig(trigger="never", proposer="base"))
    assert answer(tokenizer, never).endswith(GREEDY)
    beams = {"num_beams": 2}
    with pytest.raises(ValueError, match="num_beams"):
        model.generate(**inputs, **OPTIONS, **beams)


def test_others_can_read_what_is_written(folder):
    """Also the weights, which safetensors writes for their owner alone."""
    os.umask(mask := os.umask(0o022))
    modes = {p.name: p.stat().st_mode & 0o777 for p in folder.rglob("*") if p.is_file()}
    assert modes and set(modes.values()) == {0o666 & ~mask}, modes


def test_a_folder_is_a_plain_model_otherwise(folder, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(folder)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    assert answer(tokenizer, model.generate(**inputs, **OPTIONS)).endswith(GREEDY)
    original = AutoModelForCausalLM.from_pretrained(ASSETS / "student", dtype=torch.float32)
    for name, weights in original.state_dict().items():
        assert torch.equal(weights, model.state_dict()[name]), name


def test_a_folder_is_a_decoding_method(folder, tokenizer, modules_cache):
    model = AutoModelForCausalLM.from_pretrained(folder)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    method = {"custom_generate": str(folder), "trust_remote_code": True}
    assert answer(tokenizer, model.generate(**inputs, **OPTIONS, **method)).endswith(SELECTED)
    elsewhere = AutoModelForCausalLM.from_pretrained(ASSETS / "student", dtype=torch.float32)
    with pytest.raises(ValueError, match="selector must be given for a model that was not loaded"):
        elsewhere.generate(**inputs, **OPTIONS, **method)
    chosen = elsewhere.generate(**inputs, **OPTIONS, **method, selector="s2t_ext/demo")
    assert answer(tokenizer, chosen).endswith(SELECTED)


def test_all_ways_give_the_same_tokens(folder, tokenizer, modules_cache):
    inputs = tokenizer(PROMPT, return_tensors="pt")
    served = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    plain = AutoModelForCausalLM.from_pretrained(ASSETS / "student", dtype=torch.float32)
    selector = Selector.from_pretrained("s2t_ext/demo", plain)
    expected = s2t_ext.generate(plain, **inputs, **OPTIONS, selector=selector)
    assert torch.equal(served.generate(**inputs, **OPTIONS), expected)
    again = Selector.from_pretrained(
        folder / "selector", AutoModelForCausalLM.from_pretrained(folder)
    )
    assert again.decoding.proposer == "base" and again.adapted_model is not None


def test_a_pipeline_decodes_with_it(folder, modules_cache):
    write = pipeline("text-generation", model=str(folder), trust_remote_code=True)
    assert write(PROMPT, **OPTIONS)[0]["generated_text"].endswith(SELECTED)


def test_the_card_says_how_to_use_it(folder):
    card = (folder / "README.md").read_text()
    assert "library_name: transformers" in card and "- custom_generate" in card
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    compile(code, "card", "exec")
    assert "base_model:" not in card and str(folder) not in card


def test_selectors_that_ship_are_found_by_name():
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "student")
    selector = Selector.from_pretrained("s2t_ext/demo", model)
    assert selector.adapted_model is not None
    assert S2TConfig.from_pretrained("s2t_ext/demo") == selector.decoding
    with pytest.raises(FileNotFoundError, match="must be one of s2t_ext/demo"):
        Selector.from_pretrained("s2t_ext/no-such-selector")


@contextlib.contextmanager
def serving(folder, cache):
    """`transformers serve FOLDER`; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = "from transformers.cli.transformers import main; main()"
    arguments = ["serve", str(folder), "--trust-remote-code", "--port", str(port)]
    environment = dict(
        os.environ,
        HF_HUB_OFFLINE="1",
        HF_MODULES_CACHE=str(cache),
        OMP_NUM_THREADS="1",
        PYTHONPATH=str(ROOT),
    )
    with subprocess.Popen(
        [sys.executable, "-c", start, *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            for line in process.stderr:
                if "startup complete" in line:
                    break
            yield f"http://localhost:{port}/v1/chat/completions"
        finally:
            process.terminate()
            process.communicate(timeout=60)


def ask(url, folder, stream):
    """The text of an answer, as one piece or streamed."""
    body = {
        "model": str(folder),
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 56,
        "temperature": 0,
        "stream": stream,
    }
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answered:
        text = answered.read().decode()
    if not stream:
        return json.loads(text)["choices"][0]["message"]["content"]
    chunks = re.findall(r"^data: (\{.*\})$", text, re.MULTILINE)
    deltas = [json.loads(chunk)["choices"] for chunk in chunks]
    return "".join(found[0]["delta"].get("content", "") for found in deltas if found)


def test_transformers_serves_two_requests_at_a_time(folder, tmp_path):
    pytest.importorskip("fastapi", reason="transformers serve needs transformers[serving]")
    pytest.importorskip("uvicorn", reason="transformers serve needs transformers[serving]")
    with serving(folder, tmp_path) as url, ThreadPoolExecutor(2) as pool:
        time.sleep(1)
        answers = list(pool.map(lambda stream: ask(url, folder, stream), (False, True)))
    assert answers[0] == answers[1] and answers[0].endswith(SELECTED)


def test_the_model_is_not_exported_over_itself(folder, tokenizer):
    """Folded weights would take the place of those that were loaded."""
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    model = AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(ValueError, match="^export: output must be another folder than the model's"):
        export("s2t_ext/demo", model, tokenizer, folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
