"""Files that people make, and places where nothing can be written."""

import json
import os
import threading
from pathlib import Path

import pytest
from command_line import call, error_of, generate_command

from s2t_ext.cli.adapting.recipe import read_recipe
from s2t_ext.evaluation.tasks import load_task

TEXT = "one\ntwo\nthree\n"
LINES = "".join(json.dumps({"prompt": text}) + "\n" for text in TEXT.split())
#: How editors and other systems write the same lines.
WAYS = {
    "plain": lambda text: text.encode(),
    "byte order mark": lambda text: text.encode("utf-8-sig"),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "both": lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
    "no end of the last line": lambda text: text.rstrip("\n").encode(),
}


def calibrated(folders, path) -> dict:
    options = ("--max-new-tokens", 8, "--dtype", "float32", "--json")
    arguments = ("calibrate", "--model", folders / "model", "--prompts", path, *options)
    return json.loads(call(*arguments)[0])


@pytest.mark.parametrize("way", WAYS)
def test_prompts_are_the_same_whoever_wrote_the_file(folders, tmp_path, way):
    expected = calibrated(folders, _write(tmp_path / "plain.txt", TEXT.encode()))
    for name, text in (("p.txt", TEXT), ("p.jsonl", LINES)):
        assert calibrated(folders, _write(tmp_path / name, WAYS[way](text))) == expected


@pytest.mark.parametrize("way", WAYS)
def test_problems_and_recipes_are_the_same_too(tmp_path, way):
    questions = '{"question": "1 + 1?", "answer": "2"}\n{"question": "2 + 2?", "answer": 4}\n'
    path = _write(tmp_path / "q.jsonl", WAYS[way](questions))
    assert [problem.answer for problem in load_task(str(path))] == ["2", "4"]
    path = _write(tmp_path / "recipe.yaml", WAYS[way]("model: M\ncollect:\n  k: 4\n"))
    assert read_recipe(path)[0] == {"model": "M"} and read_recipe(path)[1]["collect"] == {"k": 4}


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_another_encoding_is_named_with_its_file(folders, tmp_path, encoding):
    path = _write(tmp_path / "p.jsonl", '{"question": "caf\u00e9", "answer": "1"}'.encode(encoding))
    message = f"{path} must be UTF-8 text, got "
    text = error_of("calibrate", "--model", folders / "model", "--prompts", path)
    assert text.startswith(f"--prompts: {message}")
    with pytest.raises(ValueError, match=f"^load_task: {message}"):
        load_task(str(path))
    with pytest.raises(ValueError, match=f"^--config: {message}"):
        read_recipe(path)


def test_prompts_may_come_through_a_pipe(folders, tmp_path):
    expected = calibrated(folders, _write(tmp_path / "plain.txt", TEXT.encode()))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(TEXT,))
    writer.start()
    assert calibrated(folders, pipe) == expected
    writer.join()


@pytest.mark.parametrize("option", ["--trace", "--html"])
def test_where_nothing_can_be_written_nothing_is_begun(folders, tmp_path, option, monkeypatch):
    monkeypatch.setattr("s2t_ext.cli.common.load_model", None)
    file = _write(tmp_path / "file", b"")
    for path, message in (
        (tmp_path, f"must be a file, got the folder {tmp_path}"),
        (file / "x" / "y", f"must be in a folder, got {file / 'x' / 'y'}: {file} is a file"),
    ):
        assert error_of(*generate_command(folders, option, path)) == f"{option} {message}"
    prompts = ("--prompts", folders / "prompts.txt")
    command = ("calibrate", "--model", folders / "model", *prompts, "--output", tmp_path)
    assert error_of(*command) == f"--output must be a file, got the folder {tmp_path}"
    command = ("trace", "--model", folders / "model", "--prompt", "Hi", "--html", tmp_path)
    text = error_of(*command, "--selector", folders / "selector")
    assert text == f"--html must be a file, got the folder {tmp_path}"


def test_a_tilde_is_the_user_s_folder_behind_an_equals_sign_too(folders, tmp_path, monkeypatch):
    """Shells leave it there, and so does YAML; a folder of that name would be made otherwise."""
    monkeypatch.setenv("HOME", str(tmp_path))
    call(*generate_command(folders, "--trace=~/steps.jsonl"))
    assert (tmp_path / "steps.jsonl").is_file() and not Path("~").exists()
    recipe = _write(tmp_path / "r.yaml", b"output: ~/run\nprompts: a~/b\ncollect:\n  k: [~/c, 4]\n")
    shared, sections = read_recipe(recipe)
    assert shared == {"output": f"{tmp_path}/run", "prompts": "a~/b"}
    assert sections["collect"] == {"k": [f"{tmp_path}/c", 4]}


def test_bytes_that_are_no_text_are_refused(folders):
    """As a terminal of another encoding gives them."""
    broken = os.fsdecode(b"caf\xe9")
    message = "must be UTF-8, got 'caf\\udce9'"
    assert error_of(*generate_command(folders, "--prompt", broken)) == f"--prompt {message}"
    assert error_of(*generate_command(folders, "--system", broken)) == f"--system {message}"


@pytest.mark.parametrize("option", ["--model", "--teacher", "--selector"])
def test_an_empty_name_is_not_the_folder_that_one_is_in(folders, option):
    assert error_of(*generate_command(folders, option, "")) == (
        f"{option} must be a folder or hub repository, got ''"
    )


def test_the_option_that_names_no_model_is_named(folders, tmp_path):
    """A teacher is loaded as the student is."""
    file = _write(tmp_path / "file", b"x")
    for option in ("--model", "--teacher"):
        options = ("--selector", folders / "selector", option, file)
        text = error_of(*generate_command(folders, *options))
        assert text.startswith(f"{option} must be a model folder or repository, got {file}: ")


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
