"""The lm-eval wrapper decodes as `s2t_ext.generate` does."""

import json

import pytest
import torch
from models import prompts, tiny_model
from transformers import AutoModelForCausalLM
from words import save_pair

import s2t_ext
from s2t_ext import S2TConfig, Teacher


def test_its_model_decodes_with_a_teacher(tmp_path):
    pytest.importorskip("lm_eval", reason="lm-eval (the lm-eval extra) is not installed")
    from s2t_ext.evaluation.lm_eval_model import S2TLM

    student, teacher = save_pair(tmp_path)
    wrapped = S2TLM(
        str(student),
        teacher=str(teacher),
        trigger="random",
        threshold=0.5,
        select="teacher",
        k=4,
        s2t_seed=3,
        device="cpu",
        dtype="float32",
    )
    ids = prompts(False).ids
    actual = wrapped._model_generate(context=ids, max_length=ids.shape[1] + 8, stop=["w999"])

    config = S2TConfig(k=4, trigger="random", threshold=0.5, select="teacher")
    expected = s2t_ext.generate(
        tiny_model("llama"),
        ids,
        s2t=config,
        teacher=Teacher.from_model(AutoModelForCausalLM.from_pretrained(teacher)),
        seed=3,
        max_new_tokens=8,
        do_sample=False,
    )
    assert torch.equal(actual, expected)


def test_repeats_are_different_samples(tmp_path):
    """Whether one at a time or as a batch; and the same again with the same seed."""
    pytest.importorskip("lm_eval", reason="lm-eval (the lm-eval extra) is not installed")
    from lm_eval.api.instance import Instance

    from s2t_ext.evaluation.lm_eval_model import S2TLM

    student, _ = save_pair(tmp_path)
    options = dict(until=["~"], max_gen_toks=8, do_sample=True, temperature=1.0)
    answers = []
    for batch_size in (1, 1, 8):
        wrapped = S2TLM(
            str(student), trigger="never", device="cpu", dtype="float32", batch_size=batch_size
        )
        requests = [
            Instance("generate_until", {}, ("w5 w9", dict(options)), i, ("t", 0, 8))
            for i in range(8)
        ]
        answers.append(wrapped.generate_until(requests, disable_tqdm=True))
    assert len(set(answers[0])) > 4
    assert answers[0] == answers[1] == answers[2]


def test_a_task_of_the_harness_runs(tmp_path, monkeypatch):
    """From a file of questions to a score: all right where the answers are this decoding's own,
    not where they are the plain model's.
    """
    pytest.importorskip("lm_eval", reason="lm-eval (the lm-eval extra) is not installed")
    from lm_eval.evaluator import simple_evaluate

    from s2t_ext.evaluation.lm_eval_model import S2TLM

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    student, teacher = save_pair(tmp_path)
    options = dict(trigger="random", threshold=0.9, select="teacher", k=4, s2t_seed=3)
    wrapped = S2TLM(
        str(student), teacher=str(teacher), device="cpu", dtype="float32", batch_size=1, **options
    )
    questions = ["w5 w9 w30", "w40 w41", "w12 w77 w8 w3"]
    plain = AutoModelForCausalLM.from_pretrained(student)
    config = S2TConfig(k=4, trigger="random", threshold=0.9, select="teacher")
    large = Teacher.from_model(AutoModelForCausalLM.from_pretrained(teacher))
    scores = {}
    for name in ("ours", "greedy"):
        lines = []
        for number, question in enumerate(questions):
            ids = wrapped.tokenizer(question, return_tensors="pt").input_ids
            arguments = dict(max_new_tokens=8, do_sample=False)
            if name == "ours":
                output = s2t_ext.generate(
                    plain, ids, s2t=config, teacher=large, seed=3 + number, **arguments
                )
            else:
                output = plain.generate(ids, **arguments)
            answer = wrapped.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
            lines.append(json.dumps({"question": question, "answer": answer}))
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(lines) + "\n")
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(path)}},
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
            "metric_list": [{"metric": "exact_match"}],
        }
        result = simple_evaluate(wrapped, tasks=[task], bootstrap_iters=0)
        scores[name] = result["results"][name]["exact_match,none"]
    assert scores["ours"] == 1.0 and scores["greedy"] < 1.0
