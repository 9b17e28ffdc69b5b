"""Tiny teachers, and greedy decoding with one."""

import torch
from architectures import ARCHITECTURES, VOCAB
from models import build_model

import s2t_ext
from s2t_ext import S2TConfig, Teacher

NEW_TOKENS = 14


def teacher_model(name: str = "qwen2", vocabulary: int = VOCAB, seed: int = 7):
    """A tiny teacher, of another seed than every student, with its own number of rows."""
    config = ARCHITECTURES[name].build()
    config.vocab_size = vocabulary
    return build_model(config, seed)


def run_with_teacher(student, teacher, inputs, config, selector=None, **options):
    return s2t_ext.generate(
        student,
        inputs.ids,
        attention_mask=inputs.mask,
        s2t=config,
        selector=selector,
        teacher=Teacher.from_model(teacher),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        return_dict_in_generate=True,
        seed=0,
        **options,
    )


def median_kl(student, teacher, inputs) -> float:
    """A threshold that about half of the steps exceed."""
    config = S2TConfig(trigger="kl", threshold=1e9, select="teacher", warmup_steps=0)
    record = run_with_teacher(student, teacher, inputs, config).s2t
    values = [v for row in record.rows for v in row.statistics]
    assert len(set(values)) > 10 and all(v > 0 for v in values)
    return float(torch.tensor(values).median())
