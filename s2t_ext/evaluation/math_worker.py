"""Compares answers with math-verify, in a process of its own (run by path, without s2t_ext).

Reads one JSON request a line from stdin, {"kind", "text", "answer"}, and writes one JSON reply a
line: {"correct": bool, "key": str | null}, where `key` is the answer in a form in which equal
answers are equal strings, or null if the text holds none. math-verify guards its parsing with
SIGALRM, which needs a main thread; and what sympy makes of a model's text may take for ever, so the
parent must be able to kill it.
"""

import json
import re
import sys
from typing import Any

PARSING_SECONDS = 3

_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(-?\d+)\s*\}|(-?\d+)\s*/\s*(-?\d+)")
_MARKERS = re.compile(r"####|\banswer\s*(?:is\b\s*:?|:)", re.IGNORECASE)


def final_answer(text: str) -> str | None:
    """What a text declares to be its answer: the last \\boxed{}, else what follows "####" or
    "answer is" on the same line; None if it declares nothing."""
    start = text.rfind("\\boxed{")
    if start >= 0:
        depth = 0
        for end in range(start + 6, len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                return text[start + 7 : end].strip()
    markers = list(_MARKERS.finditer(text))
    for marker in reversed(markers):
        line = text[marker.end() :].split("\n", 1)[0].strip(" *:.$")
        if line:
            return line
    return None


def words(text: str) -> str:
    """A text answer without case, spaces, markup and final stops."""
    text = re.sub(r"\\text(?:bf|it)?\{([^}]*)\}", r"\1", text)
    return re.sub(r"[\s$*]+", " ", text).strip(" .!").casefold()


def judge(kind: str, text: str, answer: str) -> tuple[bool, str | None]:
    """(is it right, its key)."""
    declared = final_answer(text)
    if kind == "fraction":
        ours, right = _fraction(declared), _fraction(answer)
        return ours is not None and ours == right, ours
    if kind == "text" or re.fullmatch(r"[A-Za-z][A-Za-z' -]*", answer):
        if declared is None:
            return False, None
        return words(declared) == words(answer), words(declared)
    if "\\boxed{" in text:
        return _judge_math(f"${declared}$", answer)
    return _judge_math(text if declared is None else declared, answer)


def _judge_math(text: str, answer: str) -> tuple[bool, str | None]:
    from math_verify import parse, verify

    gold = parse(f"${answer.strip('$')}$", parsing_timeout=PARSING_SECONDS)
    found = parse(text, parsing_timeout=PARSING_SECONDS)
    if not found:
        return False, None
    return bool(verify(gold, found, timeout_seconds=PARSING_SECONDS)), _key(found[0])


def _key(value: Any) -> str:
    import sympy

    if isinstance(value, sympy.Eq):
        value = value.rhs  # "x = 5" is 5
    try:
        if getattr(value, "is_number", False):
            return str(sympy.nsimplify(value, rational=True))
    except (TypeError, ValueError):
        pass
    return str(value)


def _fraction(text: str | None) -> str | None:
    """Numerator and denominator as they are written; a whole number over 1."""
    if text is None:
        return None
    found = _FRACTION.search(text)
    if found is None:
        whole = re.search(r"-?\d+", text)
        return None if whole is None else f"{int(whole.group())}/1"
    numbers = [int(group) for group in found.groups() if group is not None]
    return f"{numbers[0]}/{numbers[1]}"


def main() -> None:
    """Answers until stdin ends."""
    replies = sys.stdout
    sys.stdout = sys.stderr  # nothing else may write between the replies
    for line in sys.stdin:
        request = json.loads(line)
        correct, key = judge(request["kind"], request["text"], request["answer"])
        replies.write(json.dumps({"correct": correct, "key": key}) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
