"""The program itself: its help, and as a process of its own."""

import importlib
import inspect
import json
import subprocess
import sys
import typing

import pytest
import typer
from architectures import EOS, PROMPT
from command_line import generate_command
from transformers import GenerationConfig

import s2t_ext
from s2t_ext import config
from s2t_ext.cli import app, options
from s2t_ext.cli.common import one_line_errors
from s2t_ext.distillation.data.collect import STEPS
from s2t_ext.distillation.losses import LOSSES
from s2t_ext.distillation.options import METHODS, PRIORS
from s2t_ext.evaluation import policies
from s2t_ext.hf.prompts import chat_prompt
from s2t_ext.teachers.server import ServerTeacher


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


# ---- names ---------------------------------------------------------------------------------------

#: Command -> the function of the same name.
FUNCTIONS = {
    "calibrate": s2t_ext.calibrate,
    "collect": s2t_ext.collect,
    "evaluate": s2t_ext.evaluate,
    "export": s2t_ext.export,
    "import-checkpoint": s2t_ext.import_checkpoint,
    "import-groups": s2t_ext.import_groups,
    "measure-sufficiency": s2t_ext.measure_sufficiency,
}
#: What a command calls for some of its options: --teacher none, --judge.
ALSO_CALLS = {"collect": [s2t_ext.collect_answers], "calibrate": [s2t_ext.calibrate_margin]}
#: Options that make an argument which a terminal cannot hand over.
MAKES_AN_ARGUMENT = {
    "calibrate": {"chooser": "s2t"},
    "collect": {
        **{"task": "prompts", "problems": "prompts", "engine_options": "engine"},
        **{"policy": "decoding", "trigger": "decoding", "threshold": "decoding"},
    },
    "measure-sufficiency": {"task": "prompts", "problems": "prompts", "split": "prompts"},
    "evaluate": {
        **{"policy": "policies", "k": "policies", "task": "problems", "split": "problems"},
        **{"engine_options": "engine"},
        **{f"{who}_{what}": "policies" for who in ("teacher", "local") for what in
           ("trigger", "threshold")},
        **{"temperature": "policies", "top_p": "policies"},
        **{"code_timeout": "grader", "code_memory_mb": "grader"},
    },
}  # fmt: skip
LOADS_A_MODEL = {"dtype", "device_map", "trust_remote_code"}
PRINTS = {"as_json", "plot", "help"}
#: Of commands whose function returns what they write.
WRITES = {"calibrate": {"output"}}


def parameters_of(name):
    return {parameter.name for parameter in typer.main.get_command(app).commands[name].params}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_options_are_named_as_the_arguments_of_the_function(name):
    arguments = set(inspect.signature(FUNCTIONS[name]).parameters)
    for also in ALSO_CALLS.get(name, ()):
        arguments |= set(inspect.signature(also).parameters)
    makes = MAKES_AN_ARGUMENT.get(name, {})
    server = set(inspect.signature(ServerTeacher).parameters)
    for option in parameters_of(name) - LOADS_A_MODEL - PRINTS - WRITES.get(name, set()):
        if option.startswith("teacher_") and option not in {*makes, *arguments}:
            assert option.removeprefix("teacher_") in server, option
        else:
            assert makes.get(option, option) in arguments, option


def test_generate_takes_its_options_from_where_they_belong():
    known = {
        *inspect.signature(s2t_ext.generate).parameters,
        *inspect.signature(s2t_ext.S2TConfig).parameters,
        *vars(GenerationConfig()),
        *inspect.signature(chat_prompt).parameters,
        *inspect.signature(s2t_ext.calibrate).parameters,  # use_chat_template
    }
    shown = {"prompt", "color", "trace", "html", "teacher_model_name", "teacher_cache_dir"}
    assert parameters_of("generate") - LOADS_A_MODEL - PRINTS - shown <= known


@pytest.mark.parametrize(
    ("choices", "known"),
    [
        (options.TriggerName, config.TRIGGERS),
        (options.SelectMode, config.SELECT_MODES),
        (options.ProposerName, config.PROPOSERS),
        (options.CollectedSteps, STEPS),
        (options.MethodName, METHODS),
        (options.LossName, LOSSES),
        (options.PriorName, PRIORS),
    ],
)
def test_the_choices_are_those_of_the_library(choices, known):
    assert typing.get_args(choices) == tuple(known)


def test_the_policies_are_those_of_the_library():
    module = importlib.import_module("s2t_ext.cli.evaluate")
    assert [name.partition("@")[0] for name in policies.POLICIES] == list(module.POLICIES)


@pytest.mark.parametrize("former", options.FORMER_NAMES)
def test_former_spellings_name_an_option(former):
    group = typer.main.get_command(app)
    known = {
        name
        for command in group.commands.values()
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    assert options.FORMER_NAMES[former] in known and former not in known


# ---- before a model is loaded --------------------------------------------------------------------


def test_no_torch_for_help_version_and_wrong_arguments(tmp_path):
    """As a process of its own, which would print what it imports."""
    student = tmp_path / "student"
    student.mkdir()
    model = ("--model", student)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(dict(max_new_tokens=9, seed=0)))
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(dict(settings=dict(k=4, seed=0))))
    (tmp_path / "prompts.jsonl").write_text('{"question": "1 + 1", "answer": "2"}\n')
    other = ("--teacher", tmp_path, "--prompts", tmp_path / "prompts.jsonl")
    old = ("--output", tmp_path / "run")
    for words, status, text in (
        (("--version",), 0, f"s2t-ext {s2t_ext.__version__}"),
        (("generate", "--help"), 0, "Usage: s2t-ext generate"),
        (("generate", *model, "--prompt", "a", "--trigger", "often"), 2, "'often'"),
        (("generate", *model, "--prompt", "a", "--k", "0"), 2, "k must be in [1, 64]"),
        (("evaluate", *model, "--policy", "greeedy", "--output", "o"), 2, "got greeedy"),
        (("distill", *model, "--collection", "no", "--output", "o"), 2, "must be a folder"),
        (("collect", *model, "--teacher", student, "--prompts", __file__, "--output", "o"), 2,
         "must be another model than the student"),
        (("collect", *model, "--teacher", "http://127.0.0.1:9", "--teacher-name", "x",
          "--prompts", __file__, "--output", "o"), 2, "must be a server that answers"),
        (("collect", *model, *other, *old, "--k", "8"), 2, "k (4, now 8)"),
        (("measure-sufficiency", *model, *other, *old), 2, "max_new_tokens (9, now 512)"),
        (("evaluate", *model, *old, "--policy", "greedy", "--task", tmp_path / "prompts.jsonl"), 2,
         "max_new_tokens (9, now 512)"),
        (("generate", *model, "--prompt", "a", "--max-new-tokens", "0"), 2, "'--max-new-tokens'"),
    ):  # fmt: skip
        command = [sys.executable, "-X", "importtime", "-m", "s2t_ext", *map(str, words)]
        result = subprocess.run(command, capture_output=True, text=True)
        imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
        assert result.returncode == status, result.stderr
        assert text in " ".join((result.stdout + result.stderr).split()), words
        assert not {"torch", "transformers"} & imported, words


def test_an_interrupted_command_says_how_it_goes_on(capsys):
    for resumes, text in ((True, "stopped; the same command resumes"), (False, "stopped")):
        with pytest.raises(typer.Exit) as stopped, one_line_errors(resumes):
            raise KeyboardInterrupt
        assert stopped.value.exit_code == 130
        assert capsys.readouterr().err == text + "\n"


def test_lm_eval_without_lm_eval_is_one_line():
    code = (
        "import runpy, sys\n"
        "sys.modules['lm_eval'] = None\n"  # as if it were not installed
        "runpy.run_module('s2t_ext.evaluation.lm_eval_model', run_name='__main__')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].endswith("(pip install 's2t_ext[lm-eval]')")
    assert "Traceback" not in result.stderr
