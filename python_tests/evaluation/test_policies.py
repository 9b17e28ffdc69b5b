"""Policies decode as they say, alone and in batches, with adapters and selectors of their own."""

import pytest
import torch
from evaluating import NEW, PROMPTS, choosing, greedy_texts, results, run
from models import add_adapter, build_model, make_selector, tiny_model
from tiny_teachers import teacher_model
from words import word_tokenizer

import s2t_ext
from s2t_ext import S2TConfig, Teacher
from s2t_ext.evaluation.policies import make_policy
from s2t_ext.evaluation.policy_runner import PolicyRunner
from s2t_ext.runs.seeds import row_seed

pytestmark = pytest.mark.usefixtures("whole_text_is_the_answer")


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
                seed=[row_seed(0, number)],
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
        assert (entry["teacher_steps"] > 0) == policy.needs_teacher
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


def test_one_run_with_several_triggers(tmp_path):
    """Options behind a policy's name are its own: the results are those of a run of it alone."""
    teacher, selector = Teacher.from_model(teacher_model()), make_selector(tiny_model("llama"))
    names = ["s2t@low:trigger=entropy,threshold=0.5,k=3", "s2t@no:trigger=entropy,threshold=1e9"]
    names += ["s2t-local@r:trigger=random,threshold=0.5"]
    names.append("s2t@m:trigger=always,override_margin=1e9")
    names.append("s2t-local@m:trigger=margin,threshold=0.5,override_margin=0.1")
    summary = run(tmp_path / "all", names, teacher=teacher, selector=selector)
    assert set(summary["policies"]) == {"s2t@low", "s2t@no", "s2t@m", "s2t-local@r", "s2t-local@m"}
    assert summary["policies"]["s2t@m"]["trigger_rate"] > 0.5
    assert summary["policies"]["s2t@m"]["change_rate"] == 0
    alone = make_policy("s2t@low", k=3, teacher_trigger="entropy", teacher_threshold=0.5)
    run(tmp_path / "one", [alone], teacher=teacher)
    texts = [[r["texts"] for r in results(tmp_path / f, "s2t@low")] for f in ("all", "one")]
    assert texts[0] == texts[1]
    rates = [summary["policies"][n]["trigger_rate"] for n in ("s2t@low", "s2t@no")]
    assert rates[0] > rates[1] == 0.0
    config = make_policy(names[-1], selector=selector).config
    assert (config.trigger, config.threshold, config.override_margin) == ("margin", 0.5, 0.1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("s2t:colour=red", "NAME among k, override_margin, threshold, trigger, got 'colour=red'"),
        ("s2t:k=3,k=4", "once each.*got 'k=4'"),
        ("s2t:", "got ''"),
        ("s2t:threshold=low", "got 'threshold=low'"),
        ("s2t:trigger=entropy", "threshold must be given with trigger=entropy"),
        ("s2t:trigger=colour,threshold=1", "trigger must be one of"),
        (
            "takeover:override_margin=0.1",
            "be 0 for select='takeover', where the .* writes, got 0.1",
        ),
        ("greedy:k=3", "policies must be among .*got 'greedy'"),
    ],
)
def test_a_policys_own_options_are_checked(name, message):
    with pytest.raises(ValueError, match=message):
        make_policy(name)


def test_greedy_decoding_by_the_adapter(tmp_path):
    """`adapted` is what the adapter writes alone, `greedy` what the base model does."""
    model = add_adapter(build_model("llama"))
    selector = make_selector(tiny_model("llama"))
    selector.adapted_model = model
    run(tmp_path / "a", ["greedy", "adapted"], model=model, selector=selector)
    assert [r["texts"][0] for r in results(tmp_path / "a", "greedy")] == greedy_texts()
    own = [r["texts"][0] for r in results(tmp_path / "a", "adapted")]
    assert own == greedy_texts(model) != greedy_texts()
    with pytest.raises(ValueError, match="selector must have an adapter for adapted, got none"):
        run(tmp_path / "b", ["adapted"], selector=make_selector(tiny_model("llama")))


def test_answers_that_a_choice_ended_are_counted(tmp_path):
    student, large = tiny_model("llama"), teacher_model()
    teacher, selector = Teacher.from_model(large), make_selector(student)
    config = dict(local_trigger="always", teacher_trigger="always")
    names = ["greedy", *(choosing(n, selector=selector, **config) for n in ("s2t", "s2t-local"))]
    summary = run(tmp_path, names, teacher=teacher, selector=selector)
    for name, entry in summary["policies"].items():
        rows = results(tmp_path, name)
        assert entry["ended_by_choice"] == sum(r["ended_by_choice"] for r in rows) / len(rows)
        assert all(r["ended_by_choice"] <= 1 - r["truncated"] for r in rows)
    assert summary["policies"]["greedy"]["ended_by_choice"] == 0
    assert "| ended by a choice |" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize("temperature", [0, -0.5])
def test_a_majority_of_equal_answers_is_refused(temperature):
    with pytest.raises(ValueError, match=r"^Policy: temperature must be above 0 for maj@2 \("):
        make_policy("maj@2", temperature=temperature)
    assert make_policy("maj@1", temperature=0).paths == 1
