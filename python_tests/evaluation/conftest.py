import pytest
from one_thread import one_thread

__all__ = ["one_thread", "whole_text_is_the_answer"]


@pytest.fixture
def whole_text_is_the_answer(monkeypatch):
    """Tiny models do not box their answers."""
    pytest.importorskip("math_verify", reason="math-verify (the eval extra) is not installed")
    from s2t_ext.evaluation.grading import Grade, Grader

    def compare(self, problem, text):
        return Grade(text.strip() == problem.answer.strip(), text.strip() or None)

    monkeypatch.setattr(Grader, "_compare", compare)
