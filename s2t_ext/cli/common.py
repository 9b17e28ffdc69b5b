"""What several commands share: loading models, printing, and saying no in one line."""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from s2t_ext.config import S2TConfig

errors = Console(stderr=True)
notes = Console(stderr=True)
logger = logging.getLogger("s2t_ext")

INTERRUPTED = 130  # 128 + SIGINT, as shells count


@contextlib.contextmanager
def one_line_errors(resumes: bool = False) -> Iterator[None]:
    """Prints the message of an expected error (bad options, missing files, a server that does not
    answer) and exits with status 2; after Ctrl-C with 130.

    Args:
        resumes: Whether the command goes on where it was stopped.
    """
    try:
        yield
    except KeyboardInterrupt:
        say("stopped; the same command resumes" if resumes else "stopped")
        raise typer.Exit(INTERRUPTED) from None
    except (ValueError, OSError, ImportError, NotImplementedError) as error:
        raise _refusal(error) from error
    except RuntimeError as error:
        if not type(error).__module__.startswith("s2t_ext."):  # a teacher's server
            raise
        raise _refusal(error) from error


def _refusal(error: Exception) -> typer.Exit:
    text = escape(str(error))  # "[k, 64]" is no markup
    errors.print(f"[red]error:[/red] {text}", highlight=False, soft_wrap=True)
    return typer.Exit(2)


def say(text: str) -> None:
    """A line beside the output, on standard error; none with --quiet."""
    notes.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


def set_verbosity(verbose: bool, quiet: bool) -> None:
    """How much is said beside the output: notes, progress bars, and what the library logs.

    Args:
        verbose: Also what is only of interest while looking for a fault.
        quiet: Errors alone.
    """
    if verbose and quiet:
        raise typer.BadParameter("--verbose and --quiet exclude each other")
    notes.quiet = quiet
    if not any(isinstance(handler, RichHandler) for handler in logger.handlers):
        logger.addHandler(RichHandler(console=errors, show_time=False, show_path=False))
    logger.setLevel("INFO" if verbose else "ERROR" if quiet else "WARNING")


def progress() -> bool | None:
    """The argument `progress` of the library: bars on a terminal, none with --quiet."""
    return False if notes.quiet else None


_hints = contextvars.ContextVar("hints", default=True)


@contextlib.contextmanager
def hints_left_out() -> Iterator[None]:
    """Inside, `wrote` names no next command: a larger one goes on by itself."""
    token = _hints.set(False)
    try:
        yield
    finally:
        _hints.reset(token)


def wrote(path: str | Path, next_step: str | None = None) -> None:
    """Names what a command has written, and the command that goes on from there."""
    next_step = next_step if _hints.get() else None
    say(f"wrote {path}" + (f"; next: {next_step}" if next_step else ""))


def show(values: Mapping[str, Any], as_json: bool) -> None:
    """Prints a result: JSON, or a table of names and values that fits the terminal."""
    if as_json:
        typer.echo(json.dumps(values, indent=2))
        return
    table = plain_table()
    table.show_header = False
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _flat(values):
        text = "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
        table.add_row(name, escape(text))
    Console().print(table)


def plain_table() -> Table:
    """A table without lines; the one look of all commands."""
    return Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + str(name), value


def check_path(option: str, value: str) -> None:
    """Raises FileNotFoundError for what is neither there nor can be a hub repository's name."""
    if value and Path(value).exists():
        return
    if not value or value.startswith((".", "/", "~")) or value.count("/") > 1:
        raise FileNotFoundError(
            f"{option} must be a folder or hub repository, got {value or repr(value)}"
        )


def decoding_config(selector: str | None, teacher: str | None, **given: Any) -> S2TConfig:
    """The decoding that options ask for: the selector's own, the paper's with a teacher, or, with
    neither, plain decoding. Reads one file, and loads no model.

    Args:
        selector: A folder or repository.
        teacher: Whether there is one.
        given: Options of `S2TConfig`; None leaves one as it is.
    """
    from s2t_ext.config import CONFIG_NAME, S2TConfig
    from s2t_ext.runs.files import locate_file, read_json

    changes = {name: value for name, value in given.items() if value is not None}
    if selector is not None:
        check_path("--selector", selector)
        stored: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError):  # a research checkpoint has none
            path = locate_file(selector, CONFIG_NAME)
            stored = read_json(path, "--selector").get("decoding") or {}
        base = S2TConfig.from_dict(stored)
    elif teacher is not None:
        base = S2TConfig(select="teacher", trigger="kl", threshold=0.88)
    else:
        base = S2TConfig(trigger="never")
    config = base.with_options(**changes)
    if teacher is None and (config.select != "local" or config.trigger == "kl"):
        raise ValueError("--teacher must be given for --select teacher or --trigger kl, got none")
    asked = [name for name, value in given.items() if value not in (None, "never")]
    if selector is None and asked and (teacher is None or config.select == "local"):
        names = " and ".join(f"--{name.replace('_', '-')}" for name in asked)
        raise ValueError(f"--selector must be given for {names}, got none")
    return config


def quiet(bars: bool = True) -> None:
    """Progress bars only on a terminal, where they are one line; no warnings that only the authors
    of other libraries can act on.

    Args:
        bars: False leaves out those of loading a model there too.
    """
    from transformers import logging as transformers_logging

    if notes.quiet or not bars or not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # read by PEFT
    warnings.filterwarnings("ignore", "Could not find a config file", UserWarning)  # PEFT, saving


def load_model(
    path: str,
    dtype: str,
    device_map: str | None = None,
    trust_remote_code: bool = False,
    option: str = "--model",
) -> tuple[Any, Any]:
    """(model, tokenizer) from a folder or hub repository, on the GPU if there is one.

    Args:
        path: The folder or repository.
        dtype: Of the weights.
        device_map: Where transformers puts the layers; None puts all on one device.
        trust_remote_code: Run code of the repository.
        option: That names it, for messages.
    """
    check_path(option, path)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet()
    start = time.perf_counter()
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
        if device_map is not None:
            options["device_map"] = device_map
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **options)
        if getattr(model, "peft_config", None):
            # An adapter's folder is the adapted model, whose weights are its own from here on: what
            # decodes with the base proposing would take the adapter off.
            from peft import AutoPeftModelForCausalLM

            model = AutoPeftModelForCausalLM.from_pretrained(path, dtype=dtype, **options)
            model = merge_adapter(model)
    except OSError as error:
        raise FileNotFoundError(
            f"{option} must be a model folder or repository, got {path}: {error}"
        ) from error
    if device_map is None:
        device = "cpu"
        if torch.cuda.is_available():  # one GPU per process under accelerate or torchrun
            device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        model = model.to(device)
    seconds = time.perf_counter() - start
    logger.info("%s loaded in %.1f s: %s on %s", path, seconds, model.dtype, model.device)
    return model.eval(), tokenizer


def merge_adapter(adapted: Any) -> Any:
    """The plain model that an adapted one is.

    Its weights are no longer frozen, as PEFT leaves them: torch multiplies frozen ones row by row
    on a CPU where a batch of single tokens has unusual strides.
    """
    model = adapted.merge_and_unload()
    for parameter in model.parameters():
        if parameter.is_floating_point():  # no gradient goes to quantised ones
            parameter.requires_grad_(True)
    return model
