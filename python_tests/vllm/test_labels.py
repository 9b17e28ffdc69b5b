"""A vLLM engine as the teacher of collecting: the labels of a model in this process."""

import pytest
import torch
from vllm_requests import make_prompts

from s2t_ext import ops
from s2t_ext.teachers import Teacher, UnlabelledTrajectory

pytestmark = pytest.mark.vllm


def test_labels_equal_those_of_the_model(tiny, start):
    process = start("v2", tiny, {"trigger": "always"}, max_logprobs=64)
    trajectories = []
    for ids, first in zip(make_prompts((30, 47, 90), seed=3), (20, 1, 60), strict=True):
        generator = torch.Generator().manual_seed(first)
        logits = torch.randn(len(ids) - first, 1024, generator=generator)
        proposal = ops.propose_candidates(logits, 16, 16)
        student_ids = proposal.ids.clone()
        student_ids[0, -1] = -1  # a step with fewer candidates
        trajectories.append(
            UnlabelledTrajectory(torch.tensor(ids), first, student_ids, proposal.logits)
        )
    expected = Teacher.from_model(tiny.model).label_trajectories(trajectories, top=5)
    answers = process.labels(
        [
            {
                "input_ids": each.input_ids.tolist(),
                "first": each.first,
                "student_ids": each.student_ids.tolist(),
                "student_logits": each.student_logits.tolist(),
            }
            for each in trajectories
        ]
    )
    for (kl, logprobs, argmax, ids, likeliest), should in zip(answers, expected, strict=True):
        assert torch.allclose(torch.tensor(kl), should.kl, atol=1e-4)
        assert torch.allclose(torch.tensor(logprobs), should.candidate_logprobs, atol=1e-4)
        assert argmax == should.teacher_argmax.tolist()
        assert ids == should.top.ids.tolist()
        assert torch.allclose(torch.tensor(likeliest), should.top.logprobs, atol=1e-4)
    process.close()
