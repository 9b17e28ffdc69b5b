"""What every operator computes, in plain PyTorch: the twin of every wrapper."""

from s2t_ext.ops.reference._common import (
    STATUS_FEWER_THAN_K,
    STATUS_INF_SEEN,
    STATUS_NAN_SEEN,
    STATUS_NO_VALID_TOKEN,
)
from s2t_ext.ops.reference.commit_candidates import commit_candidates
from s2t_ext.ops.reference.copy_blocks import copy_blocks
from s2t_ext.ops.reference.propose_candidates import ProposedCandidates, propose_candidates
from s2t_ext.ops.reference.random_uniform import random_uniform
from s2t_ext.ops.reference.sample_token import SampledToken, sample_token
from s2t_ext.ops.reference.score_and_select import ScoredSelection, score_and_select
from s2t_ext.ops.reference.score_candidates import score_candidates
from s2t_ext.ops.reference.select_token import SelectedToken, select_token
from s2t_ext.ops.reference.support_kl import SupportKL, support_kl

__all__ = [
    "STATUS_FEWER_THAN_K",
    "STATUS_INF_SEEN",
    "STATUS_NAN_SEEN",
    "STATUS_NO_VALID_TOKEN",
    "ProposedCandidates",
    "SampledToken",
    "ScoredSelection",
    "SelectedToken",
    "SupportKL",
    "commit_candidates",
    "copy_blocks",
    "propose_candidates",
    "random_uniform",
    "sample_token",
    "score_and_select",
    "score_candidates",
    "select_token",
    "support_kl",
]
