"""From a student, a teacher and prompts to a selector: collect, distil, look at its quality.

After an interruption it goes on where it was. A real task wants a few hundred prompts.
"""

import argparse
import itertools
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import s2t_ext
from s2t_ext.demo import ASSETS
from s2t_ext.demo.problems import problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder of the collection and of the run")
    parser.add_argument("--student", default=ASSETS / "student")
    parser.add_argument("--teacher", default=ASSETS / "teacher")
    parser.add_argument("--prompts", type=Path, help="a text file, a prompt a line")
    parser.add_argument("--max-new-tokens", type=int, default=56)
    options = parser.parse_args()
    if options.prompts is not None:
        prompts = options.prompts.read_text("utf-8").splitlines()
    else:
        prompts = [p.prompt for p in itertools.islice(problems("distill", 0), 32)]

    tokenizer = AutoTokenizer.from_pretrained(options.student)
    student, large = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        for path in (options.student, options.teacher)
    )
    collection = s2t_ext.collect(
        student,
        tokenizer,
        s2t_ext.Teacher.from_model(large, tokenizer),
        prompts,
        options.output / "data",
        k=8,
        steps="entropy",
        share=0.2,
        held_out=0.25,
        max_new_tokens=options.max_new_tokens,
        use_chat_template=tokenizer.chat_template is not None,
    )
    config = s2t_ext.DistillConfig(method="rows")
    result = s2t_ext.distill(student, collection, options.output / "run", config, trigger_rate=0.1)
    print(f"{result.selector}\nin {result.folder / 'selector'}")
    if result.quality is not None:
        found = result.quality
        print(f"agreement with the teacher in {found.groups} groups: {found.agreement:.3f}")
        print(f"the student's own first candidate: {found.student_agreement:.3f}")


if __name__ == "__main__":
    main()
