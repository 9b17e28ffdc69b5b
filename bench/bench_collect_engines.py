"""Collecting with vLLM's engines beside transformers: do the labels agree, and what does it cost?

    python bench/bench_collect_engines.py STUDENT TEACHER --problems 40 --tokens 48 --output RUN

In an environment with vLLM (see .ci/vllm) and `s2t_ext[eval]`; both models have the same tokenizer.
Four stages, one after the other, each in a process of its own, in float32 and without graphs:

* rollouts of training problems of GSM-Symbolic, greedy, by transformers and by vLLM;
* `s2t_ext.collect` of the rollouts that transformers made, labelled at every step by a teacher in
  transformers and by `Teacher.from_vllm`.

It fails unless both collections have the same candidates, and probabilities of the teacher that
differ by less than 1e-4. Times leave out the loading of models; labels include the student's own
prefill. Written to `bench/results/`.

RUN keeps what each stage has made. Called again it goes on: rollouts that are there are not made
again, and labels go on with the next shard.

Labels in vLLM need its V2 model runner. Without a GPU that runner's kernels are interpreted, so
that the time of this stage says nothing of an engine; only the labels do.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

TOLERANCE = 1e-4  # of a probability
ENGINES = ExitStack()  # a stage's process ends with its engine
STAGES = ("rollouts-transformers", "rollouts-vllm", "labels-transformers", "labels-vllm")
SUPPORT = Path(__file__).resolve().parent.parent / "python_tests" / "support"


def parse():
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student")
    parser.add_argument("teacher")
    parser.add_argument("--problems", type=int, default=40)
    parser.add_argument("--prompts", type=Path, help="a file of collect, instead of the task")
    parser.add_argument("--tokens", type=int, default=48, help="of a rollout, at most")
    parser.add_argument("--batch-size", type=int, default=8, help="as of collect; vLLM has its own")
    parser.add_argument("--engine-options", default="{}", help="arguments of vllm.LLM, as JSON")
    parser.add_argument("--output", type=Path, required=True, help="folder of the stages' files")
    parser.add_argument("--results", type=Path, help="instead of bench/results")
    parser.add_argument("--stage", choices=STAGES, help="this stage alone, in this process")
    return parser.parse_args()


def environment(stage):
    """Of the process of a stage: settings that vLLM reads when it is imported."""
    found = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    found["VLLM_USE_V2_MODEL_RUNNER"] = "1" if stage == "labels-vllm" else "0"
    for name, value in (("VLLM_CPU_KVCACHE_SPACE", "1"), ("VLLM_LOGGING_LEVEL", "ERROR")):
        found.setdefault(name, value)
    return found


def read_lines(path):
    """Records of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def problems(arguments):
    """Prompts, with their templates as groups."""
    from s2t_ext.cli.collecting.prompt_sources import grouped_prompts, task_prompts

    if arguments.prompts:
        return grouped_prompts(arguments.prompts)[: arguments.problems]
    return task_prompts("gsm_symbolic", arguments.problems, 3)


def engine_arguments(arguments, tokenizer):
    """(length, options) of an engine that holds every trajectory."""
    from s2t_ext.cli.engines import longest_prompt

    longest = longest_prompt(tokenizer, [p.text for p in problems(arguments)], True)
    options = {"enforce_eager": True, **json.loads(arguments.engine_options)}
    return longest + arguments.tokens, options


class Clock:
    """Wall-clock and processor seconds of a block.

    Attributes:
        spent: What `with` has measured.
    """

    def __enter__(self):
        self._start = self._now()
        return self

    def __exit__(self, *_):
        names = ("seconds", "processor_seconds")
        self.spent = {n: b - a for n, a, b in zip(names, self._start, self._now(), strict=True)}

    @staticmethod
    def _now():
        used = resource.getrusage(resource.RUSAGE_SELF)
        return time.perf_counter(), used.ru_utime + used.ru_stime


def run_rollouts(arguments, engine):
    """One of the two stages of rollouts: writes them, and what they took."""
    from transformers import AutoTokenizer

    from s2t_ext.cli.common import load_model
    from s2t_ext.cli.engines import load_engine
    from s2t_ext.rollouts import roll_out, roll_out_in_engine

    texts = [problem.text for problem in problems(arguments)]
    options = {"max_new_tokens": arguments.tokens, "use_chat_template": True}
    if engine == "vllm":
        tokenizer = AutoTokenizer.from_pretrained(arguments.student)
        length, more = engine_arguments(arguments, tokenizer)
        llm = load_engine(ENGINES, arguments.student, "float32", length, more)
        with Clock() as clock:
            seeds = range(len(texts))
            answers = roll_out_in_engine(llm, tokenizer, texts, seeds=seeds, **options)
        pairs = [(answer.prompt, answer.response) for answer in answers]
    else:
        student, tokenizer = load_model(arguments.student, "float32")
        pairs = []
        with Clock() as clock:
            for start in range(0, len(texts), arguments.batch_size):
                some = texts[start : start + arguments.batch_size]
                pairs += roll_out(student, tokenizer, some, **options).pairs
    lines = [json.dumps({"prompt": prompt, "response": response}) for prompt, response in pairs]
    path = arguments.output / f"rollouts-{engine}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return {"trajectories": len(pairs), **clock.spent}


def run_labels(arguments, engine):
    """One of the two stages of labels: writes a collection, or the rest of it."""
    interpreted = engine == "vllm" and interprets_triton()
    import s2t_ext
    from s2t_ext.cli.common import load_model
    from s2t_ext.cli.engines import load_engine_teacher
    from s2t_ext.cli.teachers import load_teacher

    student, tokenizer = load_model(arguments.student, "float32")
    if engine == "vllm":
        length, options = engine_arguments(arguments, tokenizer)
        teacher = load_engine_teacher(ENGINES, arguments.teacher, "float32", length, options)
        if interpreted:
            widen_blocks()
    else:
        teacher = load_teacher(
            arguments.teacher, None, None, tokenizer, "float32", arguments.student
        )
    folder = arguments.output / f"labels-{engine}"
    before = len(labelled(folder))
    with Clock() as clock:
        s2t_ext.collect(
            student,
            tokenizer,
            teacher,
            problems(arguments),
            folder,
            share=1.0,
            max_new_tokens=arguments.tokens,
            batch_size=arguments.batch_size,
            held_out=0.0,
            rollouts_from=arguments.output / "rollouts-transformers.jsonl",
        )
    done = len(labelled(folder)) - before
    return {"trajectories": done, **clock.spent, "interpreted": interpreted}


def interprets_triton():
    """Whether Triton's kernels are interpreted here; to be called before vllm is imported."""
    import torch

    if torch.cuda.is_available():
        return False
    sys.path.insert(0, str(SUPPORT))
    from vllm_engine import interpret_triton

    interpret_triton()
    return True


class WholeRow:
    """A Triton kernel of vLLM that walks over a row of logits, with blocks as long as the row: what
    is interpreted costs by the operation, however long a block is.
    """

    def __init__(self, kernel):
        self._kernel = kernel

    def __getitem__(self, grid):
        launch = self._kernel[grid]
        return lambda *given, **options: launch(*given, **{**options, "BLOCK_SIZE": 1 << 18})


def widen_blocks():
    """Spares interpreted labels most of their operations; to be called after vllm is imported."""
    from vllm.v1.worker.gpu.sample import logprob

    for name in ("_topk_log_softmax_kernel", "_ranks_kernel"):
        setattr(logprob, name, WholeRow(getattr(logprob, name)))


def labelled(folder):
    """Key -> record of the trajectories of a collection."""
    paths = sorted(folder.glob("trajectories-*.jsonl"))
    return {record["key"]: record for path in paths for record in read_lines(path)}


def compare_labels(expected, found):
    """How far two collections of the same rollouts are from each other.

    Args:
        expected: Key -> record. found: The same of the other one.

    Returns:
        Counts, and the largest differences of a probability and of a divergence (nats).

    Raises:
        ValueError: if trajectories or candidates differ, or a probability by `TOLERANCE` or more.
    """
    if found.keys() != expected.keys():
        raise ValueError(f"labels of {len(expected)} and {len(found)} trajectories")
    probabilities, divergences = [], []
    for key, record in found.items():
        for ours, theirs in zip(record["groups"], expected[key]["groups"], strict=True):
            for name in ("step", "candidates"):
                if ours[name] != theirs[name]:
                    place = f"trajectory {key}, step {theirs['step']}"
                    raise ValueError(f"{place}: {name} {ours[name]} and {theirs[name]}")
            pairs = zip(ours["teacher_probs"], theirs["teacher_probs"], strict=True)
            probabilities += [abs(a - b) for a, b in pairs]
            divergences.append(abs(ours["kl"] - theirs["kl"]))
    far = [d for d in probabilities if not d < TOLERANCE]
    if far:
        raise ValueError(
            f"{len(far)} of {len(probabilities)} probabilities differ by {TOLERANCE} or more, "
            f"e.g. by {far[0]}"
        )
    return {
        "trajectories": len(found),
        "steps": len(divergences),
        "largest_difference_of_probability": max(probabilities),
        "largest_difference_of_divergence": max(divergences),
    }


def run_stage(arguments, stage):
    """Runs a stage in a process of its own and returns its row; raises RuntimeError if it fails."""
    report = arguments.output / f"{stage}.json"
    if not report.exists():
        command = [sys.executable, *sys.argv, "--stage", stage]
        status = subprocess.run(command, env=environment(stage), check=False).returncode
        if status:
            raise RuntimeError(f"{stage} ended with {status}")
    row = {"stage": stage, **json.loads(report.read_text())}
    row["trajectories_per_minute"] = 60 * row["trajectories"] / row["seconds"]
    print(row, flush=True)
    return row


def main(arguments):
    """Runs the stages, compares and writes."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.stage:
        kind, engine = arguments.stage.split("-")
        row = (run_rollouts if kind == "rollouts" else run_labels)(arguments, engine)
        (arguments.output / f"{arguments.stage}.json").write_text(json.dumps(row) + "\n")
        return
    rows = [run_stage(arguments, stage) for stage in STAGES]
    engines = ("transformers", "vllm")
    first, second = (read_lines(arguments.output / f"rollouts-{e}.jsonl") for e in engines)
    same = sum(a == b for a, b in zip(first, second, strict=True))
    rows.append({"stage": "rollouts of both", "trajectories": len(first), "same": same})
    labels = compare_labels(*(labelled(arguments.output / f"labels-{e}") for e in engines))
    rows.append({"stage": "labels of both", **labels})
    print(*rows[-2:], sep="\n")
    from harness import write_results

    names = [os.path.basename(path.rstrip("/")) for path in (arguments.student, arguments.teacher)]
    context = dict(zip(("student", "teacher"), names, strict=True), tokens=arguments.tokens)
    context |= {"batch_size": arguments.batch_size, "folder": arguments.results}
    print(write_results("collect_engines", rows, **context))


if __name__ == "__main__":
    main(parse())
