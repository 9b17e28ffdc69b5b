"""Decoding with a teacher behind a server."""

from models import prompts, tiny_model

import s2t_ext
from s2t_ext import Teacher

NEW = 8


def teacher_at(url, **options) -> Teacher:
    return Teacher.from_server(url, "tiny", **{"backoff": 0.01, "timeout": 20.0, **options})


def decode(teacher, config, inputs=None):
    inputs = inputs or prompts(True)
    output = s2t_ext.generate(
        tiny_model("llama"),
        inputs.ids,
        attention_mask=inputs.mask,
        s2t=config,
        teacher=teacher,
        max_new_tokens=NEW,
        do_sample=False,
        return_dict_in_generate=True,
        seed=0,
    )
    return output.sequences.tolist(), output.s2t
