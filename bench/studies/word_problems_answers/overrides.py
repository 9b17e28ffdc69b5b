"""How many of the adapted student's choices does the larger model like less than the first one?

    python bench/studies/word_problems_answers/overrides.py STUDENT ADAPTER TEACHER ANSWERS.jsonl \
        --output STEPS.jsonl [--problems 100] [--seed 31] [--margin 0 | --harm-limit 0.2]

ANSWERS.jsonl holds those of `s2t@answers`, a line a problem (`xz -dk` of the file in answers/).
Each answer is tokenised again and read once by the base model, the adapted one and the teacher; at
the steps where the trigger fires the choice is made again, with the margin it was decoded with.
STEPS.jsonl has a line a problem, so that a stopped run goes on. Printed are the counts of
`count_overrides` and, as a check, at how many of the steps the choice made again is the token of
the answer: the answers were decoded in one batch, and a text can be tokenised in more than one way.
With --harm-limit the margin that `choose_margin` takes is printed too, and its counts.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import s2t_ext
from s2t_ext.distillation.quality.overrides import (
    choose_margin,
    count_overrides,
    override_choices,
)
from s2t_ext.hf.prompts import chat_prompt, prompt_ids
from s2t_ext.selectors.adapter import attach_adapter

K, THRESHOLD, WARMUP = 8, 0.135, 3


def load(folder):
    """The model in bfloat16."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)


def logprobs(model, ids, start):
    """float32 [steps, vocabulary] of the tokens from `start` on."""
    logits = model(ids[None, :-1], logits_to_keep=ids.shape[0] - start).logits[0]
    return logits.float().log_softmax(-1)


def steps_of(adapted, teacher, prompt, answer):
    """The steps at which the trigger fires: candidates' log-probabilities and the next token."""
    ids = torch.tensor(prompt + answer)
    with adapted.disable_adapter():
        own = logprobs(adapted, ids, len(prompt))
    entropy = -(own.exp() * own).sum(-1)
    fires = (entropy > THRESHOLD) & (torch.arange(len(own)) >= WARMUP)
    candidates = own[fires].topk(K).indices
    chooser = logprobs(adapted, ids, len(prompt))[fires].gather(1, candidates)
    guide = logprobs(teacher, ids, len(prompt))[fires].gather(1, candidates)
    return {
        "steps": len(own),
        "candidates": candidates.tolist(),
        "taken": ids[len(prompt) :][fires].tolist(),
        "chooser": chooser.tolist(),
        "teacher": guide.tolist(),
    }


def report(lines, margin, harm_limit):
    """Prints the counts of the lines; under the margin that a limit leads to, too."""

    def column(name):
        return torch.tensor([row for line in lines for row in line[name]])

    chooser, guide = column("chooser"), column("teacher")
    mask = torch.ones_like(chooser, dtype=torch.bool)
    slots = override_choices(chooser, mask, margin)
    choice = column("candidates").gather(1, slots[:, None])[:, 0]
    same = int((choice == column("taken")).sum())
    steps = sum(line["steps"] for line in lines)
    print(f"{len(lines)} answers, {steps} steps, the trigger fires at {len(choice)}")
    print(f"the choice made again is the token of the answer at {same} of {len(choice)}")
    margins = [margin]
    if harm_limit is not None:
        margins.append(choose_margin(chooser, mask, guide.exp(), harm_limit))
    for each in margins:
        print(f"margin {each:.4f} nats:")
        counts(count_overrides(chooser, mask, guide.exp(), each))


def counts(found):
    """Prints them."""
    print(
        f"overrides {found.overrides}, right {found.right}, harmful {found.harmful} "
        f"({found.harm_rate:.3f})"
    )
    print(f"corrections {found.corrections}, net recall {found.net_recall:.3f}")
    print(f"teacher's log-probability gained a step: {found.teacher_gain:.3f} nats")


@torch.no_grad()
def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("student", "adapter", "teacher", "answers"):
        parser.add_argument(name)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--seed", type=int, default=31, help="of the task")
    parser.add_argument("--margin", type=float, default=0.0, help="nats")
    parser.add_argument("--harm-limit", type=float)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.student)
    answers = [json.loads(line) for line in Path(options.answers).read_text().splitlines()]
    problems = s2t_ext.load_task("gsm_symbolic", len(answers), seed=options.seed, split="train")
    done = options.output.read_text().splitlines() if options.output.exists() else []
    lines = [json.loads(line) for line in done]
    adapted = attach_adapter(options.adapter, load(options.student))
    teacher = load(options.teacher)
    for number in range(len(lines), options.problems):
        problem, answer = problems[number], answers[number]
        assert problem.key == answer["key"], (problem.key, answer["key"])
        prompt = prompt_ids(tokenizer, [chat_prompt(tokenizer, problem.prompt)])[0]
        ids = tokenizer(answer["texts"][0], add_special_tokens=False).input_ids
        lines.append({"key": problem.key} | steps_of(adapted, teacher, prompt, ids))
        with options.output.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
    report(lines, options.margin, options.harm_limit)


if __name__ == "__main__":
    main()
