"""What tests of distillation share: a tiny student and teacher, prompts, and their collection."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from s2t_ext.demo.pretrain import make_tokenizer
from s2t_ext.demo.problems import problems
from s2t_ext.distillation.data.collect import collect
from s2t_ext.teachers.base import Teacher

PROMPTS = [p.prompt for p, _ in zip(problems("dev", 3), range(10), strict=False)]
OPTIONS = dict(k=4, support=16, share=0.2, max_new_tokens=12, batch_size=3, use_chat_template=False)
#: Options of training that take seconds.
FAST = dict(
    epochs=2,
    batch_size=2,
    learning_rate=5e-3,
    head_learning_rate=2e-2,
    lora_r=2,
    bins=5,
    k=3,
    checkpoint_every=2,
)


def make_model(seed, layers=1):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(make_tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=2,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config).eval()


def model_that_ends(seed):
    """One with many end tokens, so that sampled answers end by themselves."""
    model = make_model(seed)
    model.generation_config.eos_token_id = [1, *range(5, len(make_tokenizer()), 12)]
    return model


def run_collect(folder, layers=1, **options):
    tokenizer = make_tokenizer()
    teacher = Teacher.from_model(make_model(2), tokenizer)
    options = {**OPTIONS, "temperature": 1.0, **options}
    prompts = options.pop("prompts", PROMPTS)
    return collect(make_model(1, layers), tokenizer, teacher, prompts, folder, **options)
