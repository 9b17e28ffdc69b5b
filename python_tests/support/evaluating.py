"""Evaluation of tiny models on problems whose answer is a whole text."""

import json

import torch
from models import tiny_model
from words import word_tokenizer

import s2t_ext
from s2t_ext.evaluation.policies import make_policy
from s2t_ext.evaluation.tasks import Problem

NEW = 10
PROMPTS = ["w5 w6 w7", "w20 w21", "w40", "w8 w9 w10 w11 w12", "w50 w51"]


def greedy_texts(model=None) -> list[str]:
    model, tokenizer, texts = model or tiny_model("llama"), word_tokenizer(), []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        output = model.generate(ids, max_new_tokens=NEW, do_sample=False)
        texts.append(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
    return texts


def problems() -> list[Problem]:
    """Greedy decoding gets every second one right: the answer is its whole text."""
    answers = [t if i % 2 == 0 else "something else" for i, t in enumerate(greedy_texts())]
    return [
        Problem(f"p{i}", "even" if i % 2 == 0 else "odd", f"{prompt}", answer, "text")
        for i, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True))
    ]


def run(folder, policies=("greedy",), some=None, **options):
    options = {"max_new_tokens": NEW, "batch_size": 2, **options}
    return s2t_ext.evaluate(
        options.pop("model", None) or tiny_model("llama"),
        word_tokenizer(),
        problems() if some is None else some,
        folder,
        policies=list(policies),
        progress=False,
        **options,
    )


def results(folder, policy) -> list[dict]:
    path = folder / "results" / f"{policy}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def choosing(name, **options):
    """A policy that chooses at half of the steps."""
    trigger = dict(teacher_trigger="random", teacher_threshold=0.5)
    trigger |= dict(local_trigger="random", local_threshold=0.5)
    return make_policy(name, k=4, **{**trigger, **options})
