"""The commands `generate`, `calibrate` and `import-checkpoint` on a tiny saved model."""

import json
import subprocess
import sys

import pytest
import torch
from architectures import EOS, PROMPT
from command_line import call, error_of
from models import add_adapter, build_model, make_selector, make_tokenizer, tiny_model
from safetensors.torch import save_file

import s2t_ext
from s2t_ext import S2TConfig, Selector
from s2t_ext.cli.generate import CHANGED, RESET, TRIGGERED
from s2t_ext.generation import generate
from s2t_ext.hf.identity import describe_base_model

TEMPLATE = "{% for m in messages %}<bos>U:{{ m['content'] }}{% endfor %}A:"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Saved: a model with a chat template, and a selector for it."""
    root = tmp_path_factory.mktemp("cli")
    model = build_model("llama")
    model.generation_config.eos_token_id = None
    model.save_pretrained(root / "model")
    make_tokenizer(TEMPLATE).save_pretrained(root / "model")
    selector = make_selector(
        model,
        base_model=describe_base_model(model),
        decoding=S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0),
    )
    selector.save_pretrained(root / "selector")
    (root / "prompts.txt").write_text("one\n\ntwo\n")
    return root


def generate_command(folders, *more):
    return (
        "generate", "--model", folders / "model", "--prompt", "Hi", "--dtype", "float32",
        "--max-new-tokens", 12, *more,
    )  # fmt: skip


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


# ---- generate ------------------------------------------------------------------------------------


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
    assert [line["kind"] for line in lines] == ["summary", "row"] and lines[0]["steps"] == 12
    stdout, _ = call(*generate_command(folders, *options, "--prompt", "Ho"))
    assert stdout.count("\n") == 2
    assert {p.name for p in tmp_path.iterdir()} == {
        "trace.jsonl",
        "trace-0.jsonl",
        "trace-1.jsonl",
    }


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
        (("--trigger", "entropy"), "generate: selector must be given for select='local' (or set "
            "trigger='never'), got None"),
        (("--trigger", "often"), "S2TConfig: trigger must be one of entropy, margin, head, kl, "
            "random, always, never, got 'often'"),
        (("--k", 0), "S2TConfig: k must be in [1, 64], got 0"),
        (("--k", 65), "S2TConfig: k must be in [1, 64], got 65"),
        (("--dtype", "float33"), "--dtype must be one of float32, bfloat16, float16, got float33"),
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
        patch.setattr(module, "_config", lambda *a, **k: S2TConfig(support=4))
        assert error_of(*generate_command(folders)) == (
            "S2TConfig: support must be 0 or in [k, 64] with k = 8, got 4"
        )


def test_generate_names_what_is_missing(folders, tmp_path):
    options = ("--prompt", "Hi")
    assert error_of("generate", "--model", tmp_path / "no", *options).startswith(
        "--model must be a model folder or repository: "
    )
    text = error_of(*generate_command(folders, "--selector", tmp_path))
    assert text == f"load_selector: path_or_repo must hold s2t_config.json, got {tmp_path}"


def test_generate_refuses_a_selector_of_another_model(folders, tmp_path):
    other = build_model("llama", seed=4)
    make_selector(other, base_model=describe_base_model(other)).save_pretrained(tmp_path)
    text = error_of(*generate_command(folders, "--selector", tmp_path))
    assert text.startswith("generate: selector must belong to the model (fingerprint ")


# ---- calibrate -----------------------------------------------------------------------------------


def calibrate_command(folders, *more):
    return (
        "calibrate", "--model", folders / "model", "--dtype", "float32", "--rate", 0.1,
        "--max-new-tokens", 12, *more,
    )  # fmt: skip


def test_calibrate_prints_and_stores(folders, tmp_path):
    model = type(tiny_model("llama")).from_pretrained(folders / "model")
    expected = s2t_ext.calibrate(
        model, make_tokenizer(TEMPLATE), ["one", "two"], rate=0.1, max_new_tokens=12, progress=False
    )
    prompts = ("--prompts", folders / "prompts.txt")
    stdout, _ = call(*calibrate_command(folders, *prompts))
    assert json.loads(stdout) == {"trigger": "entropy", **expected.to_dict()}
    assert expected.tokens == 2 * 9
    selector = Selector.from_pretrained(folders / "selector", model)
    selector.decoding = None
    selector.save_pretrained(tmp_path / "s")
    lines = '{"prompt": "one"}\n\n{"question": "two"}\n'
    (tmp_path / "prompts.jsonl").write_text(lines)
    options = ("--selector", tmp_path / "s", "--prompts", tmp_path / "prompts.jsonl")
    call(*calibrate_command(folders, *options))
    call(*calibrate_command(folders, *options, "--trigger", "margin", "--no-chat"))
    stored = Selector.from_pretrained(tmp_path / "s", model)
    assert set(stored.calibrations) == {"entropy", "margin"}
    assert stored.calibrations["entropy"] == expected
    assert torch.equal(stored.rows, selector.rows)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", "{", "line 1 must be JSON, got Expecting property name"),
        ("p.jsonl", '{"prompt": "a"}\n{"text": "b"}', 'line 2 must have "prompt" or "question"'),
        ("p.jsonl", '"a"', 'line 1 must have "prompt" or "question", got "a"'),
        ("p.jsonl", '{"prompt": 3}', 'line 1 must have "prompt" or "question", got {"prompt": 3}'),
    ],
)
def test_calibrate_names_the_line(name, content, message, folders, tmp_path):
    path = tmp_path / name
    path.write_text(content)
    text = error_of(*calibrate_command(folders, "--prompts", path))
    assert text.startswith(f"{path}: {message}")


def test_calibrate_says_no_in_one_line(folders, tmp_path):
    nowhere = tmp_path / "no.txt"
    assert error_of(*calibrate_command(folders, "--prompts", nowhere)) == (
        f"--prompts must be a file, got {nowhere}"
    )
    prompts = ("--prompts", folders / "prompts.txt")
    assert error_of(*calibrate_command(folders, *prompts, "--selector", "me/mine")) == (
        "--selector must be a folder (the threshold is stored in it), got me/mine"
    )
    assert error_of(*calibrate_command(folders, *prompts, "--rate", 2)) == (
        "calibrate: rate must be in (0, 1), got 2.0"
    )
    (tmp_path / "empty.txt").write_text("\n")
    assert error_of(*calibrate_command(folders, "--prompts", tmp_path / "empty.txt")) == (
        "calibrate: prompts must hold at least one text, got none"
    )


# ---- import-checkpoint ---------------------------------------------------------------------------


def test_import_a_bare_head(folders, tmp_path):
    rows = torch.randn(16, 32)
    save_file({"rows": rows}, tmp_path / "score_head.safetensors")
    (tmp_path / "score_head.json").write_text(json.dumps({"num_bins": 16, "prior_weight": 0.25}))
    output = tmp_path / "out"
    stdout, _ = call(
        "import-checkpoint", tmp_path, output, "--model", folders / "model", "--dtype", "float32"
    )
    assert stdout.startswith("Selector(bins=16, hidden_size=32, prior_weight=0.25, ")
    assert stdout.endswith(f" -> {output}\n")
    model = type(tiny_model("llama")).from_pretrained(folders / "model")
    loaded = Selector.from_pretrained(output, model)
    assert torch.equal(loaded.rows, rows)
    assert loaded.base_model == describe_base_model(model)


def test_import_a_research_adapter(folders, tmp_path):
    adapted = add_adapter(build_model("llama"), save_head=True)
    adapted.save_pretrained(tmp_path / "adapter")
    output = tmp_path / "out"
    command = ("import-checkpoint", tmp_path / "adapter", output, "--model", folders / "model")
    assert error_of(*command, "--reserved-ids", "80,x") == (
        "--reserved-ids must be comma-separated numbers, got 80,x"
    )
    assert "leaves fewer than 16 rows unused" in error_of(*command)
    assert not output.exists()
    call(*command, "--dtype", "float32", "--reserved-ids", "80,81, 82")
    model = type(tiny_model("llama")).from_pretrained(folders / "model")
    loaded = Selector.from_pretrained(output, model)
    assert loaded.reserved_ids == (80, 81, 82) and loaded.adapted_model is not None
    head = adapted.get_base_model().lm_head.modules_to_save["default"].weight
    assert torch.equal(loaded.rows, head[80:83])


# ---- the program ---------------------------------------------------------------------------------


def test_help_answers_without_loading_a_model_library():
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from s2t_ext.cli import app\n"
        "for words in ([], ['generate'], ['calibrate'], ['import-checkpoint']):\n"
        "    result = CliRunner().invoke(app, [*words, '--help'])\n"
        "    assert result.exit_code == 0 and 'Usage' in result.output\n"
        "assert 'transformers' not in sys.modules and 'peft' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_module_is_the_program(folders):
    """In a process of its own, as a user runs it."""
    command = [sys.executable, "-m", "s2t_ext", *map(str, generate_command(folders))]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout) > 5 and "step: none]" in result.stderr
    assert EOS < PROMPT
