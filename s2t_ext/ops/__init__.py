"""The operators, one file each: public wrapper and fake kernel.

CPU and CUDA tensors go to the native kernels; without them every operator runs the reference of
the same name. `csrc/README.md` holds the contract.
"""

from s2t_ext.ops.commit_candidates import commit_candidates
from s2t_ext.ops.copy_blocks import copy_blocks
from s2t_ext.ops.propose_candidates import propose_candidates
from s2t_ext.ops.random_uniform import random_uniform
from s2t_ext.ops.reference.propose_candidates import ProposedCandidates
from s2t_ext.ops.reference.sample_token import SampledToken
from s2t_ext.ops.reference.score_and_select import ScoredSelection
from s2t_ext.ops.reference.select_token import SelectedToken
from s2t_ext.ops.reference.support_kl import SupportKL
from s2t_ext.ops.sample_token import sample_token
from s2t_ext.ops.score_and_select import score_and_select
from s2t_ext.ops.score_candidates import score_candidates
from s2t_ext.ops.select_token import select_token
from s2t_ext.ops.support_kl import support_kl

__all__ = [
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
