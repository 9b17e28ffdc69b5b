"""Grades several ways of decoding on the same problems, with intervals and paired comparisons."""

import argparse
import itertools
import json
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import s2t_ext
from s2t_ext.demo import ASSETS
from s2t_ext.demo.problems import problems
from s2t_ext.evaluation.report import markdown
from s2t_ext.evaluation.tasks import load_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=ASSETS / "student")
    parser.add_argument("--selector", default="s2t_ext/demo")
    parser.add_argument("--task", help="gsm_symbolic, ..., or a .jsonl of question and answer")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=56)
    parser.add_argument("--output", type=Path, default=Path(tempfile.mkdtemp()))
    options = parser.parse_args()
    task = options.task or own_problems(options.output / "problems.jsonl", options.count)

    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    summary = s2t_ext.evaluate(
        model,
        tokenizer,
        load_task(str(task), options.count),
        options.output / "run",
        policies=("greedy", "maj@4", "s2t-local"),
        selector=s2t_ext.Selector.from_pretrained(options.selector, model),
        max_new_tokens=options.max_new_tokens,
        use_chat_template=tokenizer.chat_template is not None,
    )
    print(markdown(summary))


def own_problems(path: Path, count: int) -> Path:
    """Held-out problems of the demo, as a file of one's own."""
    with path.open("w") as file:
        for problem in itertools.islice(problems("held_out", 0), count):
            line = {"question": problem.prompt, "answer": str(problem.answer), "instruction": ""}
            file.write(json.dumps(line) + "\n")
    return path


if __name__ == "__main__":
    main()
