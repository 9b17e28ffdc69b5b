"""Who chooses at a triggered step: the teacher, among the candidates (S2T) or over the vocabulary
(Takeover).
"""

from __future__ import annotations

import torch

from s2t_ext import ops
from s2t_ext.config import S2TConfig
from s2t_ext.decoding.choosing.selection import Choice, StepState, check_whole_sequence
from s2t_ext.decoding.record import DecodingRecord
from s2t_ext.hf.context import CandidateContext
from s2t_ext.ops import ProposedCandidates, SupportKL
from s2t_ext.teachers.base import TeacherSession


class TeacherView:
    """Asks the teacher at most once per step, whether for the trigger or for the choice."""

    def __init__(self, session: TeacherSession, record: DecodingRecord) -> None:
        self._session = session
        self._record = record
        self._length = -1
        self._answer: SupportKL | None = None

    def evaluate(
        self, context: CandidateContext, support: ProposedCandidates, k: int, rows: torch.Tensor
    ) -> SupportKL:
        """The teacher's opinion at `context`, of the rows that need one (bool [batch]); the first k
        columns of `support` are the candidates.
        """
        length = context.input_ids.shape[1]
        if self._answer is None or self._length != length:
            with self._record.phase("teacher"):
                before = self._session.forward_passes
                self._answer = self._session.evaluate(
                    context, support.ids, support.logits, support.ids[:, :k].contiguous(), rows
                )
                self._record.teacher_forward_passes += self._session.forward_passes - before
            self._length = length
        return self._answer


class TeacherSelection:
    """S2T: y_t = argmax over the candidates of p_teacher(c | s_t), if it is above that of the first
    by the override margin. Takeover: the teacher's own argmax.
    """

    wants_candidate_cache = False
    looks_ahead = False

    def __init__(self, config: S2TConfig, teacher: TeacherView) -> None:
        self.config = config
        self.teacher = teacher

    def prefilled(self, context: CandidateContext) -> None:
        """Refuses prompts the teacher cannot read."""
        check_whole_sequence(context, "a teacher (it reads the tokens)")

    def describe(self) -> tuple[str, str]:
        """No candidate forward of the student."""
        return "teacher", f"select={self.config.select!r}"

    def choose(self, state: StepState) -> Choice:
        """The teacher's token in triggered rows, the default in the others."""
        k = state.proposal.ids.shape[1]
        answer = self.teacher.evaluate(state.context, state.support, k, state.triggered)
        ids = state.proposal.ids
        if self.config.select == "takeover":
            # -1 is no token: a teacher without a valid logit leaves the student's.
            takes = state.triggered & (answer.teacher_argmax >= 0)
            tokens = torch.where(takes, answer.teacher_argmax, state.default)
            matches = (ids == tokens[:, None]) & state.triggered[:, None]
            slot = torch.where(matches.any(1), matches.int().argmax(1), -1)
            return Choice(tokens, slot.where(state.triggered, 0), None)
        chosen = ops.select_token(
            ids,
            scores=answer.candidate_logprobs,
            triggered=state.triggered,
            default_token=state.default,
            finished=state.finished,
            pad_id=state.pad_id,
            score_temperature=self.config.score_temperature,
            seed=state.seed,
            position=state.position,
        )
        scores, margin = answer.candidate_logprobs, self.config.override_margin
        if margin == 0:
            return Choice(chosen.token, chosen.slot, scores)
        refused = _is_refused(scores, chosen.slot, margin)
        tokens = torch.where(refused, ids[:, 0], chosen.token)
        return Choice(tokens, chosen.slot.masked_fill(refused, 0), scores, refused=refused)


def _is_refused(scores: torch.Tensor, slot: torch.Tensor, margin: float) -> torch.Tensor:
    """Bool [batch]: the choice is not better than the first candidate by more than the margin."""
    first, chosen = scores[:, 0], scores.gather(1, slot.clamp_min(0)[:, None]).squeeze(1)
    # -inf: a first candidate that the teacher does not know is not kept.
    return (slot > 0) & (first > -torch.inf) & ~(chosen - first > margin)
