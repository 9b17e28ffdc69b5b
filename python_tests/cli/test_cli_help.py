"""What the program prints beside its results: help, notes, and nothing with --quiet."""

import json
import logging

import pytest
import typer.main
from command_line import call, generate_command
from typer.testing import CliRunner

from s2t_ext.cli import app
from s2t_ext.cli.help import GENERAL, section_of

GROUP = typer.main.get_command(app)
NAMES = [name for name, command in GROUP.commands.items() if not command.hidden]


@pytest.mark.parametrize("name", NAMES)
def test_help_fits_80_columns_and_cuts_no_name(name):
    result = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0 and max(map(len, result.stdout.splitlines())) <= 80
    words = result.stdout.split()
    for parameter in GROUP.commands[name].params:
        if parameter.param_type_name == "option" and not parameter.hidden:
            assert {*parameter.opts, *parameter.secondary_opts} <= set(words), parameter.name
    assert "<bool>" not in result.stdout  # a flag takes no value


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_a_section(name):
    general = {p.name for p in GROUP.commands[name].params if section_of(name, p) == GENERAL}
    assert general <= {"help", "selector", "output", "checkpoint", "paths", "reserved_ids"}


def test_the_program_lists_its_commands_in_the_order_of_use():
    shown = CliRunner().invoke(app, ["--help"]).stdout
    places = [shown.index(f"  {name}  ") for name in NAMES]
    assert places == sorted(places) and shown.count("...") == 1  # of the usage line


def test_quiet_leaves_the_result_alone(folders, capsys):
    stdout, stderr = call("--quiet", *generate_command(folders))
    assert stdout.strip() and stderr == ""
    assert "no --selector" in call(*generate_command(folders))[1]  # the next call is not quiet


def test_verbose_prints_what_helps_to_find_a_fault(folders):
    selector = ("--selector", folders / "selector")
    stderr = call("--verbose", *generate_command(folders), *selector)[1]
    assert "loaded in" in stderr and "tree step:" in stderr
    assert "loaded in" not in call(*generate_command(folders), *selector)[1]
    assert len(logging.getLogger("s2t_ext").handlers) == 1


def test_verbose_and_quiet_exclude_each_other():
    result = CliRunner().invoke(app, ["--quiet", "--verbose", "info"])
    assert result.exit_code == 2 and "exclude each other" in result.stderr


def test_generate_prints_json(folders):
    stdout, _ = call(*generate_command(folders), "--prompt", "Ho", "--json")
    found = json.loads(stdout)
    assert [answer["prompt"] for answer in found] == ["Hi", "Ho"]
    assert all(answer["text"] and answer["steps"] == 12 for answer in found)
    plain, _ = call(*generate_command(folders))
    assert plain.rstrip("\n") == found[0]["text"]


def test_a_warm_up_that_leaves_no_choice_is_told(folders):
    always = ("--selector", folders / "selector", "--trigger", "always", "--warmup-steps", "20")
    stderr = call(*generate_command(folders), *always)[1]
    assert "0 choices (none in the first 20 steps: --warmup-steps)" in stderr
    always = (*always[:-1], "0")
    assert "12 choices, " in call(*generate_command(folders), *always)[1]
