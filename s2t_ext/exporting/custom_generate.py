"""What `custom_generate/generate.py` of an exported folder calls: `model.generate` decodes with the
selector that lies beside the weights.

transformers runs that file for `from_pretrained(FOLDER, trust_remote_code=True)`, and for
`generate(custom_generate=FOLDER, trust_remote_code=True)`; pipelines and servers that load the
folder so decode with Select-to-Think without knowing of it.
"""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import torch
from torch import nn

from s2t_ext.config import CONFIG_NAME, S2TConfig
from s2t_ext.decoding.record import S2TGenerateOutput
from s2t_ext.generation import generate as decode
from s2t_ext.runs.files import locate_file
from s2t_ext.selectors.selector import Selector

#: Folder of an exported model in which a selector with an adapter lies: beside the weights,
#: transformers would take the adapter for the model's own.
SELECTOR_FOLDER = "selector"

#: The file that `export` writes.
TEMPLATE = '''"""Decodes with the selector of this folder (Select-to-Think; pip install s2t_ext)."""

from s2t_ext.exporting.custom_generate import generate  # noqa: F401
'''

_selectors: weakref.WeakKeyDictionary[nn.Module, Selector] = weakref.WeakKeyDictionary()


def generate(
    inputs: torch.Tensor | None = None,
    generation_config: Any = None,
    *,
    model: nn.Module,
    selector: Selector | str | Path | None = None,
    s2t: S2TConfig | None = None,
    custom_generate: Any = None,
    **arguments: Any,
) -> S2TGenerateOutput | torch.Tensor:
    """Stands in for `model.generate`.

    Args:
        inputs: As in `model.generate`.
        generation_config: As in `model.generate`.
        model: Given by transformers.
        selector: Or its folder or name; None takes the one beside the model's weights.
        s2t: Options; None takes the selector's.
        custom_generate: A callable takes the place of Select-to-Think.
        arguments: Those of `s2t_ext.generate` and of `model.generate`.

    Returns:
        What `s2t_ext.generate` returns.

    Raises:
        ValueError: if the model was not loaded from a folder with a selector and none is given, and
            for what `s2t_ext.generate` refuses.
    """
    arguments = {name: value for name, value in arguments.items() if value is not None}
    if custom_generate is not None:  # s2t_ext.generate calls the model's own, which is this one
        cls: Any = type(model)
        result: S2TGenerateOutput | torch.Tensor = cls.generate(
            model, inputs, generation_config, custom_generate=custom_generate, **arguments
        )
        return result
    if not isinstance(selector, Selector):
        selector = _selector(model, selector)
    return decode(model, inputs, generation_config, s2t=s2t, selector=selector, **arguments)


def _selector(model: nn.Module, source: str | Path | None) -> Selector:
    """The selector of `source`, loaded once for each model."""
    if source is None and model in _selectors:
        return _selectors[model]
    found = Selector.from_pretrained(_folder_of(model) if source is None else source, model)
    _selectors[model] = found
    return found


def _folder_of(model: Any) -> Path:
    """Where the selector beside the model's weights lies."""
    origin = model.config.name_or_path
    for name in (CONFIG_NAME, f"{SELECTOR_FOLDER}/{CONFIG_NAME}"):
        try:
            return locate_file(origin, name).parent
        except FileNotFoundError:
            continue
    raise ValueError(
        "generate: selector must be given for a model that was not loaded from a folder with one, "
        f"got None for {origin or type(model).__name__}"
    )
