"""The command `generate` on a tiny saved model."""

import json
import sys

import pytest
from command_line import TEMPLATE, call, error_of, generate_command
from models import add_adapter, build_model, make_selector, make_tokenizer, tiny_model

import s2t_ext
from s2t_ext import S2TConfig, Selector
from s2t_ext.cli.common import decoding_config
from s2t_ext.cli.printer import CHANGED, RESET, TRIGGERED
from s2t_ext.generation import generate
from s2t_ext.hf.identity import describe_base_model


def expected_output(folders, prompt="<bos>U:HiA:", config=None, seed=0, **options):
    """The same through the library."""
    model = s2t_ext.unpatch(type(tiny_model("llama")).from_pretrained(folders / "model"))
    tokenizer = make_tokenizer(TEMPLATE)
    selector = Selector.from_pretrained(folders / "selector", model)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    output = generate(
        model,
        ids,
        s2t=config or selector.decoding,
        selector=selector,
        seed=seed,
        max_new_tokens=12,
        return_dict_in_generate=True,
        **options,
    )
    new = [t for t in output.sequences[0, ids.shape[1] :].tolist() if t > 2]
    return tokenizer.decode(new), output


def test_generate_streams_the_text(folders):
    text, output = expected_output(folders, do_sample=False)
    stdout, stderr = call(*generate_command(folders, "--selector", folders / "selector"))
    assert stdout == text + "\n"
    record = output.s2t
    assert record.changed_tokens > 0
    assert stderr.startswith(
        f"[12 tokens, {record.triggers} choices, {record.changed_tokens} changed, "
        f"{record.forward_passes} forward passes, "
    )
    assert stderr.endswith("ms/token, step: tree]\n")


def test_generate_without_a_selector_is_greedy_decoding(folders):
    never = S2TConfig(trigger="never")
    text, _ = expected_output(folders, config=never, do_sample=False)
    stdout, stderr = call(*generate_command(folders))
    assert stdout == text + "\n" and " 0 choices, " in stderr


def test_generate_takes_the_prompt_as_it_is_without_chat(folders):
    never = S2TConfig(trigger="never")
    text, _ = expected_output(folders, prompt="Hi", config=never, do_sample=False)
    assert call(*generate_command(folders, "--no-chat"))[0] == text + "\n"


def test_generate_samples(folders):
    config = S2TConfig(k=2, trigger="always", warmup_steps=3)
    options = ("--selector", folders / "selector", "--trigger", "always", "--k", 2)
    text, _ = expected_output(
        folders,
        config=S2TConfig(k=2, trigger="always", threshold=0.5, warmup_steps=0),
        seed=9,
        do_sample=True,
        temperature=0.5,
    )
    assert config.k == 2
    more = ("--sample", "--temperature", 0.5, "--seed", 9)
    assert call(*generate_command(folders, *options, *more))[0] == text + "\n"


def test_generate_colours_choices(folders):
    """Also into a pipe: whoever asks for marks gets them."""
    text, output = expected_output(folders, do_sample=False)
    stdout, _ = call(*generate_command(folders, "--selector", folders / "selector", "--color"))
    row, pieces = output.s2t.rows[0], []
    tokenizer = make_tokenizer()
    for step, token in enumerate(row.tokens):
        if token <= 2:
            continue
        piece = tokenizer.decode([token])
        if step in row.triggered_steps:
            piece = f"{CHANGED if step in row.changed_steps else TRIGGERED}{piece}{RESET}"
        pieces.append(piece)
    assert stdout == "".join(pieces) + "\n"


def test_generate_writes_traces(folders, tmp_path):
    trace = tmp_path / "trace.jsonl"
    options = ("--selector", folders / "selector", "--trace", trace)
    call(*generate_command(folders, *options))
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(12))
    chosen = [line for line in lines if line["triggered"]]
    assert chosen and all(line["row"] == 0 and isinstance(line["text"], str) for line in lines)
    for line in chosen:
        assert len(line["candidates"]) == 4
        best = max(line["candidates"], key=lambda candidate: candidate["score"])
        assert best["id"] == line["token"] and best["logprob"] <= 0
    stdout, _ = call(*generate_command(folders, *options, "--prompt", "Ho"))
    assert stdout.count("\n") == 2
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    assert [line["row"] for line in lines] == [0] * 12 + [1] * 12
    assert [p.name for p in tmp_path.iterdir()] == ["trace.jsonl"]


def test_generate_with_the_base_model_proposing(folders, tmp_path):
    model = build_model("llama")
    base = describe_base_model(model)
    adapted = add_adapter(model)
    selector = make_selector(adapted.get_base_model(), base_model=base)
    selector.decoding = S2TConfig(k=4, trigger="always", warmup_steps=0)
    selector.adapted_model = adapted
    selector.save_pretrained(tmp_path)
    outputs = [
        call(*generate_command(folders, "--selector", tmp_path, "--proposer", proposer))[0]
        for proposer in ("adapted", "base")
    ]
    assert outputs[0] != outputs[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--trigger", "entropy"), "--selector must be given for --trigger, got none"),
        (("--threshold", 0.5, "--k", 4), "--selector must be given for --threshold and --k, got "
            "none"),
        (("--trigger", "kl"), "--teacher must be given for --select teacher or --trigger kl, got "
            "none"),
        (("--select", "teacher"), "--teacher must be given for --select teacher or --trigger kl, "
            "got none"),
        (("--temperature", 0.5), "--do-sample must be given for --temperature, got greedy "
            "decoding"),
        (("--prompt", ""), "--prompt must not be empty, got ''"),
        (("--selector", "/no/such"), "--selector must be a folder or hub repository, got /no/such"),
        (("--teacher", "http://127.0.0.1:9"), "--teacher-model-name must be given for a server, "
            "got none"),
        (("--k", 0), "S2TConfig: k must be in [1, 64], got 0"),
        (("--k", 65), "S2TConfig: k must be in [1, 64], got 65"),
    ],
)  # fmt: skip
def test_generate_says_no_in_one_line(options, message, folders):
    arguments = [str(a) for a in generate_command(folders)]
    if options[0] in arguments:
        at = arguments.index(options[0])
        del arguments[at : at + 2]
    assert error_of(*arguments, *options) == message


def test_brackets_of_a_message_are_printed(folders):
    """Not taken for markup."""
    with pytest.MonkeyPatch.context() as patch:
        module = sys.modules["s2t_ext.cli.generate"]  # the name itself is the command
        patch.setattr(module, "decoding_config", lambda *a, **k: S2TConfig(support=4))
        assert error_of(*generate_command(folders)) == (
            "S2TConfig: support must be 0 or in [k, 64] with k = 8, got 4"
        )


def test_generate_names_what_is_missing(folders, tmp_path):
    options = ("--prompt", "Hi")
    assert error_of("generate", "--model", tmp_path / "no", *options).startswith(
        "--model must be a folder or hub repository, got "
    )
    text = error_of(*generate_command(folders, "--selector", tmp_path))
    assert text == f"load_selector: path_or_repo must hold s2t_config.json, got {tmp_path}"


def test_generate_refuses_a_selector_of_another_model(folders, tmp_path):
    other = build_model("llama", seed=4)
    make_selector(other, base_model=describe_base_model(other)).save_pretrained(tmp_path)
    text = error_of(*generate_command(folders, "--selector", tmp_path))
    assert text.startswith("generate: selector must belong to the model (fingerprint ")


def test_generate_writes_a_page_for_every_prompt(folders, tmp_path):
    options = ("--selector", folders / "selector", "--html", tmp_path / "page.html")
    _, stderr = call(*generate_command(folders, *options, "--prompt", "Hello"))
    pages = {path.name: path.read_text("utf-8") for path in tmp_path.glob("*.html")}
    assert set(pages) == {"page-0.html", "page-1.html"}
    assert f"wrote {tmp_path / 'page-1.html'}" in stderr.replace("\n", "")
    assert '"prompt": "Hello"' in pages["page-1.html"]
    assert '"triggered": true' in pages["page-0.html"]


def test_a_margin_belongs_to_who_chooses(tmp_path):
    """A selector's is in units of its scores; the teacher's are log-probabilities."""
    model = tiny_model("llama")
    selector = make_selector(model)
    selector.decoding = S2TConfig(trigger="always", override_margin=0.25)
    selector.save_pretrained(tmp_path)
    assert decoding_config(str(tmp_path), "T").override_margin == 0.25
    assert decoding_config(str(tmp_path), "T", select="local").override_margin == 0.25
    assert decoding_config(str(tmp_path), "T", select="teacher").override_margin == 0.0
