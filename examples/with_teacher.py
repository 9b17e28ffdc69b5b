"""A small model writes; where it is unsure, a larger one chooses among its candidates."""

import argparse

from transformers import AutoModelForCausalLM, AutoTokenizer

import s2t_ext
from s2t_ext.demo import ASSETS

PROMPT = (
    "Chen has 56 walnuts at the gallery . "
    "one mails 4 . two hands 3 . three finds 9 . four eats 6 . how many now ?"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", default=ASSETS / "student")
    parser.add_argument("--teacher", default=ASSETS / "teacher")
    parser.add_argument("--threshold", type=float, default=0.5, help="entropy, nats")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--max-new-tokens", type=int, default=56)
    options = parser.parse_args()

    student = AutoModelForCausalLM.from_pretrained(options.student)
    tokenizer = AutoTokenizer.from_pretrained(options.student)
    large = AutoModelForCausalLM.from_pretrained(options.teacher)
    teacher = s2t_ext.Teacher.from_model(large, tokenizer)
    inputs = tokenizer(options.prompt, return_tensors="pt")
    chosen = s2t_ext.S2TConfig(
        select="teacher", trigger="entropy", threshold=options.threshold, warmup_steps=0
    )
    for name, s2t in (("greedy", s2t_ext.S2TConfig(trigger="never")), ("S2T", chosen)):
        output = s2t_ext.generate(
            student,
            inputs,
            s2t=s2t,
            teacher=teacher if s2t is chosen else None,
            max_new_tokens=options.max_new_tokens,
            return_dict_in_generate=True,
        )
        answer = output.sequences[0, inputs["input_ids"].shape[1] :]
        print(f"{name}: {tokenizer.decode(answer, skip_special_tokens=True)}")
        print(f"  {output.s2t.changed_tokens} of {output.s2t.steps} tokens changed,", end=" ")
        print(f"{output.s2t.teacher_forward_passes} passes of the teacher")


if __name__ == "__main__":
    main()
