"""What several commands share: loading models, selectors and prompts, and saying no in one line."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

errors = Console(stderr=True)

DTYPES = ("float32", "bfloat16", "float16")


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Prints the message of an expected error (bad options, missing files); exits with status 2."""
    try:
        yield
    except (ValueError, FileNotFoundError, ImportError, NotImplementedError) as error:
        text = escape(str(error))  # "[k, 64]" is no markup
        errors.print(f"[red]error:[/red] {text}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error


def load_model(path: str, dtype: str) -> tuple[Any, Any]:
    """(model, tokenizer) from a folder or hub repository, on the GPU if there is one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    if dtype not in DTYPES:
        raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}, got {dtype}")
    if not sys.stderr.isatty():  # a bar in a log is many lines
        logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    except OSError as error:
        raise FileNotFoundError(f"--model must be a model folder or repository: {error}") from error
    device = "cpu"
    if torch.cuda.is_available():  # one GPU per process under accelerate or torchrun
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return model.to(device).eval(), tokenizer


def read_prompts(path: Path) -> list[str]:
    """Prompts of a file: JSON lines with "prompt" or "question", or plain text lines."""
    prompts = []
    for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
        if not line.strip():
            continue
        if path.suffix != ".jsonl":
            prompts.append(line)
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: line {number} must be JSON, got {error}") from error
        text = None
        if isinstance(record, dict):
            text = record.get("prompt", record.get("question"))
        if not isinstance(text, str):
            raise ValueError(f'{path}: line {number} must have "prompt" or "question", got {line}')
        prompts.append(text)
    return prompts
