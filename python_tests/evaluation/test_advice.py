"""The sentence that says which policy to use."""

import pytest

from s2t_ext.evaluation.advice import recommend
from s2t_ext.evaluation.report import summarize

PROBLEMS = 60
COSTS = dict(tokens=10, forward_passes=10, tokens_through_model=10, truncated=0, steps=10)


def results(right, seconds=1.0, teacher=0.0, group=None):
    """Of a policy that solves these problems."""
    return [
        {
            **dict(key=str(i), task="t", group=group(i) if group else "", correct=i in right),
            **dict(texts=[""], triggers=0, changed=0, seconds=seconds, **COSTS),
            "teacher_forward_passes": teacher,
            "teacher_steps": teacher,
        }
        for i in range(PROBLEMS)
    ]


GREEDY = set(range(10))


def test_a_better_policy_is_named_with_its_price():
    summary = summarize({"greedy": results(GREEDY), "s2t-local": results(set(range(22)), 1.5)})
    sentence = recommend(summary)
    assert sentence == (
        "Use s2t-local: 22 of 60 right, 10 by greedy, 12 won, 0 lost, p = 0.00049, at 1.5 times "
        "its time."
    )


def test_a_small_gain_is_none():
    summary = summarize({"greedy": results(GREEDY), "s2t-local": results(set(range(13)))})
    sentence = recommend(summary)
    assert sentence.startswith("Use greedy: nothing that runs without the teacher is shown to be")
    assert "s2t-local: 13 of 60 right, 10 by greedy, 3 won, 0 lost, p = 0.25" in sentence
    assert "60 problems would tell with probability 0.2" in sentence


def test_templates_are_the_evidence():
    """Twelve problems won of one template are one piece of evidence."""
    better = set(range(22))
    found = {"greedy": results(GREEDY), "s2t-local": results(better)}
    assert recommend(summarize(found)).startswith("Use s2t-local")
    grouped = {name: results(right, group=lambda i: "A" if 10 <= i < 22 else str(i))
               for name, right in (("greedy", GREEDY), ("s2t-local", better))}  # fmt: skip
    assert recommend(summarize(grouped)).startswith("Use greedy")


def test_of_several_the_most_accurate_at_a_stricter_level():
    found = {
        "greedy": results(GREEDY),
        "maj@8": results(set(range(16)), 8.0),  # 6 won: p = 0.031, enough for one policy
        "s2t-local": results(set(range(20)), 1.2),
    }
    assert recommend(summarize(found)).startswith("Use s2t-local: 20 of 60")
    del found["s2t-local"]
    assert recommend(summarize(found)).startswith("Use maj@8")
    found["s2t-local"] = results(GREEDY)
    assert recommend(summarize(found)).startswith("Use greedy")


def test_policies_that_ask_a_teacher_stand_apart():
    found = {
        "s2t": results(set(range(30)), 4.0, 53.0),
        "greedy": results(GREEDY),
        "teacher": results(set(range(29)), 9.0, 200.0),
    }
    assert recommend(summarize(found)) == (
        "Use greedy: no other policy that runs without the teacher was tried; with the teacher at "
        "hand use s2t: 30 of 60 right, 10 by greedy, 20 won, 0 lost, p = 1.9e-06, the teacher "
        "asked at 53 steps a problem."
    )


def test_an_adapter_of_the_student_is_no_teacher():
    found = {"greedy": results(GREEDY), "s2t@adapter": results(set(range(30)), 2.0, 50.0)}
    sentence = recommend(summarize(found), own=("s2t@adapter",))
    assert sentence.startswith("Use s2t@adapter: 30 of 60 right") and "teacher" not in sentence


@pytest.mark.parametrize("names", [("s2t-local",), ("s2t-local", "maj@8")])
def test_without_greedy_there_is_no_bar(names):
    assert "without it there is no bar" in recommend(summarize({n: results(GREEDY) for n in names}))
