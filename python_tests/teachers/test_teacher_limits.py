"""What teachers return and read: no names or cache, no position for a token, states with gaps."""

import pytest
import torch
from architectures import ARCHITECTURES, EOS, PAD, PROMPT, VOCAB
from models import Prompts, build_model, prompts, tiny_model
from tiny_teachers import NEW_TOKENS, run_with_teacher, teacher_model
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    RwkvConfig,
)
from transformers.modeling_outputs import CausalLMOutput

from s2t_ext import S2TConfig, Teacher, reference
from s2t_ext.hf.identity import position_limit

TINY = dict(
    vocab_size=97,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=20,
)


class TupleModel(LlamaForCausalLM):
    """A forward of somebody's own that does not know `return_dict`."""

    def forward(self, *arguments, return_dict=None, **options):
        return super().forward(*arguments, return_dict=True, **options).to_tuple()


def test_a_teacher_that_returns_tuples_is_refused():
    named = teacher_model("llama")
    named.config.return_dict = False
    with pytest.raises(ValueError) as error:
        Teacher.from_model(named)
    assert str(error.value) == (
        "Teacher.from_model: model must return its outputs by name (set "
        "model.config.return_dict = True), got return_dict=False"
    )
    model = TupleModel(ARCHITECTURES["llama"].build()).eval()
    teacher, ids = Teacher.from_model(model), torch.arange(3, 13)
    rule = "must return its outputs by name, as with return_dict=True, got tuple$"
    config = S2TConfig(trigger="always", select="teacher", warmup_steps=0)
    with pytest.raises(ValueError, match=f"^generate: teacher {rule}"):
        run_with_teacher(tiny_model("llama"), model, prompts(False), config)
    with pytest.raises(ValueError, match=f"^Teacher.score_trajectory: teacher {rule}"):
        teacher.score_trajectory(ids, 3)
    with pytest.raises(ValueError, match=f"^generate: model {rule}"):
        teacher.label_trajectory(ids, 3, torch.zeros(7, 2).long(), torch.zeros(7, 2))


def short_teacher(positions: int):
    config = ARCHITECTURES["gpt2"].build()
    config.n_positions = positions
    return build_model(config, seed=7)


@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
def test_a_teacher_without_a_position_for_a_token_is_refused(padded):
    """One position fewer than it is asked for; with just enough it answers, and padding needs
    none.
    """
    config = S2TConfig(trigger="always", select="teacher", warmup_steps=0)
    inputs = prompts(padded)
    student = tiny_model("llama")
    # The last token it reads is the last but one of the sequence.
    needed = PROMPT + NEW_TOKENS - 1
    for teacher in (short_teacher(needed), teacher_model("llama")):
        options = {"eos_token_id": None, "pad_token_id": PAD}
        output = run_with_teacher(student, teacher, inputs, config, **options)
        assert output.sequences.shape[1] == PROMPT + NEW_TOKENS
    with pytest.raises(ValueError) as error:
        run_with_teacher(student, short_teacher(needed - 1), inputs, config, **options)
    assert str(error.value) == (
        "generate: teacher must have a position for every token of the sequence, got "
        f"{needed - 1} positions for {needed} tokens"
    )
    short = inputs.ids[2:], inputs.mask[2:]  # of two tokens
    if padded:
        output = run_with_teacher(
            student, short_teacher(needed - 7), Prompts(*short), config, **options
        )
        assert output.sequences.shape[1] == PROMPT + NEW_TOKENS


def test_a_trajectory_longer_than_the_teachers_positions_is_refused():
    ids, teacher = torch.arange(3, 16), Teacher.from_model(short_teacher(12))
    own = torch.zeros(10, 2).long()
    with pytest.raises(ValueError, match="score_trajectory: .*, got 12 positions for 13 tokens$"):
        teacher.score_trajectory(ids, 3)
    teacher.label_trajectory(ids, 3, own, own.float())  # nothing is asked after the last token
    longer = torch.cat([ids, ids[:1]])
    with pytest.raises(ValueError, match="label_trajectory: .*, got 12 positions for 13 tokens$"):
        teacher.label_trajectory(longer, 3, torch.zeros(11, 2).long(), torch.zeros(11, 2))


@pytest.mark.parametrize(
    ("model", "limit"),
    [
        (OPTForCausalLM(OPTConfig(**TINY, ffn_dim=16, word_embed_proj_dim=8)), 20),
        (GPTJForCausalLM(GPTJConfig(**TINY, rotary_dim=4)), 20),
        (GPT2LMHeadModel(GPT2Config(**TINY)), 20),
        (tiny_model("llama"), None),
        (tiny_model("bloom"), None),
    ],
)
def test_position_limit(model, limit):
    assert position_limit(model) == limit


RARELY = dict(select="teacher", trigger="random", threshold=0.3, warmup_steps=0)


def test_the_head_reads_states_without_gaps():
    """Also of the last of several positions, and the model is left without hooks."""
    teacher, inputs, seen = teacher_model(), prompts(False), []
    head = teacher.lm_head
    run_with_teacher(tiny_model("llama"), teacher, inputs, S2TConfig(**RARELY))
    assert not head._forward_pre_hooks
    own = head.forward

    def watched(states):
        seen.append(states.is_contiguous())
        return own(states)

    head.forward = watched
    try:
        run_with_teacher(tiny_model("llama"), teacher, inputs, S2TConfig(**RARELY))
    finally:
        del head.forward
    assert len(seen) > 1 and all(seen)


def test_one_position_at_a_time_needs_no_hook(monkeypatch):
    """A hook would make a compiled forward compile again in every step."""
    teacher, hooks = teacher_model(), []
    register = teacher.lm_head.register_forward_pre_hook

    def counted(hook):
        hooks.append(hook)
        return register(hook)

    monkeypatch.setattr(teacher.lm_head, "register_forward_pre_hook", counted)
    config = S2TConfig(select="teacher", trigger="always", warmup_steps=0)
    output = run_with_teacher(tiny_model("llama"), teacher, prompts(False), config)
    assert len(hooks) == 1 < output.s2t.teacher_forward_passes


class FewArguments(LlamaForCausalLM):
    """A forward that names no positions, no `logits_to_keep` and no cache."""

    def forward(self, input_ids=None, attention_mask=None, use_cache=None, return_dict=None):
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return CausalLMOutput(logits=self.lm_head(hidden.last_hidden_state))

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **options):
        return dict(input_ids=input_ids, attention_mask=attention_mask)


def few_arguments():
    model = teacher_model("llama")
    model.__class__ = FewArguments
    return model


def recurrent_without_a_cache():
    config = RwkvConfig(vocab_size=VOCAB, hidden_size=32, attention_hidden_size=32)
    config.num_hidden_layers = 2
    return build_model(config, seed=7)


@pytest.mark.parametrize("trigger", ["always", "random"])
@pytest.mark.parametrize(
    ("make", "padded"),
    [
        (recurrent_without_a_cache, False),  # RWKV takes no padding
        (few_arguments, False),
        (few_arguments, True),
        (lambda: teacher_model("mamba2"), True),
    ],
    ids=["state", "few arguments", "few arguments, padded", "mask of the prompt"],
)
def test_teachers_that_generate_in_their_own_way(make, padded, trigger):
    """Their state is no cache, or the mask is read with the prompt only."""
    small, large, inputs = tiny_model("llama"), make(), prompts(padded)
    config = S2TConfig(k=4, trigger=trigger, threshold=0.5, select="teacher", warmup_steps=0)
    output = run_with_teacher(small, large, inputs, config)
    expected = reference.decode_with_teacher(
        small,
        large,
        inputs.ids,
        inputs.mask,
        config=config,
        max_new_tokens=NEW_TOKENS,
        eos_token_ids=(EOS,),
        pad_token_id=PAD,
    )
    assert output.sequences.tolist() == expected.tolist()
    assert Teacher.from_model(large).score_trajectory(inputs.ids[0], 4).shape == (PROMPT - 4, VOCAB)
