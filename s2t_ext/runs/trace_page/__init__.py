"""The page that shows what a decoding did: one HTML file, without network, for any browser.

The page is drawn from a document of plain values:

    title, prompt, command: Text; all but the prompt may be missing.
    settings: Name -> value, shown as they are (model, selector, ...).
    versions: Package -> version.
    trigger, threshold: Of the decoding; the threshold is drawn where the trigger is the entropy.
    runs: One or two decodings of the prompt, the plain one first; each has
        name: Heading.
        summary: `DecodingRecord.summary()`, or a part of it.
        steps: One record per token: step, token, text, entropy, statistic, triggered, changed and
            candidates (id, text, logprob, score; teacher, its log-probability, where there was
            one); ordinary, the id without a choice, if it is not the first candidate; special, for
            tokens that are no text.

Numbers may be None where there is none.
"""

from __future__ import annotations

import json
import math
from importlib.resources import files
from typing import Any


def trace_page(document: dict[str, Any]) -> str:
    """The page of a document, complete.

    Args:
        document: As the module says.

    Returns:
        HTML text, to be written as UTF-8.

    Raises:
        ValueError: if the document has no runs, or holds what JSON does not.
    """
    if not document.get("runs"):
        raise ValueError("trace_page: document must have at least one run, got none")
    page, style, script = (_part(name) for name in ("page.html", "page.css", "page.js"))
    data = json.dumps(_finite(document), ensure_ascii=False, allow_nan=False)
    # Inside a script element only "<" could end it, and JSON knows another way to write it.
    data = data.replace("<", "\\u003c")
    for mark, text in (("/*STYLE*/", style), ("/*SCRIPT*/", script), ("/*TRACE*/", data)):
        page = page.replace(mark, text, 1)
    return page


def _part(name: str) -> str:
    return files(__name__).joinpath(name).read_text("utf-8")


def _finite(value: Any) -> Any:
    """The same with None for NaN and infinities."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
