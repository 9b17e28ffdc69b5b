"""Exports a model with its selector, and decodes with it through a plain pipeline.

`transformers serve FOLDER --trust-remote-code` serves the same folder.
"""

import argparse
import tempfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from s2t_ext import export
from s2t_ext.demo import ASSETS

PROMPT = (
    "Linus has 66 gems at the museum . one finds 4 . two sells 7 . three buys 3 . how many now ?"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=ASSETS / "student")
    parser.add_argument("--selector", default="s2t_ext/demo")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--output", default=tempfile.mkdtemp(), help="folder of the export")
    options = parser.parse_args()

    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    folder = export(options.selector, model, tokenizer, options.output)
    write = pipeline("text-generation", model=str(folder), trust_remote_code=True)
    answers = write([options.prompt] * 2, max_new_tokens=56, do_sample=False)
    for answer in answers:
        print(answer[0]["generated_text"])
    print(f"transformers serve {folder} --trust-remote-code")


if __name__ == "__main__":
    main()
