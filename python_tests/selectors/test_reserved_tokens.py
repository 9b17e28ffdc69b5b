"""Which vocabulary rows may carry scores, and reading the rows a head really uses."""

import pytest
import torch
from models import add_adapter, build_model, make_tokenizer, prompts, tiny_model

from s2t_ext import Selector
from s2t_ext.selectors.reserved_tokens import (
    check_ids,
    find_unused_ids,
    head_rows,
    resolve_reserved_ids,
)


class Vocabulary:
    """As much of a tokenizer as finding unused ids reads."""

    def __init__(self, names, special=(), template=None):
        self.vocabulary = {name: i for i, name in enumerate(names)}
        self.all_special_ids = [self.vocabulary[name] for name in special]
        self.chat_template = template

    def get_vocab(self):
        return self.vocabulary


def test_rows_beyond_the_vocabulary_are_unused():
    assert find_unused_ids(Vocabulary(["a", "b"]), 5) == [2, 3, 4]
    assert find_unused_ids(make_tokenizer(), 100) == [97, 98, 99]
    assert find_unused_ids(make_tokenizer(), 97) == []


def test_gaps_of_the_vocabulary_are_unused():
    tokenizer = Vocabulary(["a", "b", "c"])
    tokenizer.vocabulary["c"] = 4
    assert find_unused_ids(tokenizer, 6) == [2, 3, 5]


@pytest.mark.parametrize(
    "name",
    [
        "[PAD151700]",
        "<|reserved_special_token_7|>",
        "<reserved_special_token_7>",
        "<unused12>",
        "<|extra_204|>",
        "<|placeholder3|>",
        "[control_33]",
    ],
)
def test_entries_named_as_unused(name):
    """Unless the model uses them after all: as a special token, or in its chat template."""
    assert find_unused_ids(Vocabulary(["a", name]), 2) == [1]
    assert find_unused_ids(Vocabulary(["a", name], special=[name]), 2) == []
    assert find_unused_ids(Vocabulary(["a", name], template=f"{name} {{{{x}}}}"), 2) == []
    assert find_unused_ids(Vocabulary(["a", name]), 1) == []  # the head has no such row


@pytest.mark.parametrize("name", ["[PAD]", "<unused>", "unused12", "x<unused12>", "<|im_start|>"])
def test_other_names_are_used(name):
    assert find_unused_ids(Vocabulary(["a", name]), 2) == []


def test_the_tokenizer_beside_the_adapter_comes_before_the_models(tmp_path):
    options = tiny_model("llama").config.to_dict() | dict(vocab_size=120)
    model = build_model(type(tiny_model("llama").config)(**options))
    make_tokenizer().save_pretrained(tmp_path / "model")
    model.config._name_or_path = str(tmp_path / "model")
    assert resolve_reserved_ids(model, tmp_path / "nothing") == tuple(range(97, 113))
    grown = make_tokenizer()
    grown.add_tokens(["new", "newer"])
    grown.save_pretrained(tmp_path / "adapter")
    assert resolve_reserved_ids(model, tmp_path / "adapter") == tuple(range(99, 115))
    assert resolve_reserved_ids(model, tmp_path / "adapter", num_bins=3) == (99, 100, 101)


@pytest.mark.parametrize(("ids", "wrong"), [([0, 97], "[97]"), ([-1], "[-1]"), ([], "none")])
def test_ids_out_of_the_head(ids, wrong):
    for use in (check_ids, head_rows, Selector.from_reserved_rows):
        with pytest.raises(ValueError) as error:
            use(tiny_model("llama"), ids)
        assert str(error.value) == (
            "load_selector: reserved_ids must be one or more rows of the head, in [0, 97), got "
            f"{wrong}"
        )


# ---- rows ----------------------------------------------------------------------------------------

IDS = [96, 3, 50]


def check_rows(model) -> None:
    """rows . hidden + bias, post-processed, are the model's logits at IDS."""
    rows, bias, post = head_rows(model, IDS)
    assert rows.shape == (3, 32)
    ids = prompts(False).ids
    seen = {}
    inner = getattr(model, "get_base_model", lambda: model)()
    handle = inner.get_output_embeddings().register_forward_hook(
        lambda module, inputs, output: seen.update(hidden=inputs[0])
    )
    logits = model(input_ids=ids).logits[..., IDS]
    handle.remove()
    actual = seen["hidden"].float() @ rows.float().T + (0 if bias is None else bias)
    tolerance = 1e-4 if model.dtype == torch.float32 else 5e-2
    torch.testing.assert_close(post.apply(actual), logits.float(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", ["llama", "gemma2", "granite", "cohere2", "gpt_neox"])
def test_plain_heads(name):
    check_rows(tiny_model(name))


def test_a_head_with_a_bias():
    model = build_model("llama")
    bias = torch.nn.Parameter(torch.randn(97))
    model.lm_head.register_parameter("bias", bias)
    rows, found, _ = head_rows(model, IDS)
    assert torch.equal(found, bias[IDS]) and torch.equal(rows, model.lm_head.weight[IDS])
    check_rows(model)


def test_half_precision():
    check_rows(build_model("llama").bfloat16())


@pytest.mark.parametrize("kind", ["modules_to_save", "lora", "dora", "trainable tokens"])
@torch.no_grad()
def test_adapted_heads(kind):
    """Rows as the adapted forward uses them; with the adapter off, the base model's."""
    from peft import LoraConfig, get_peft_model

    model = build_model("llama")
    base = model.lm_head.weight[IDS].clone()
    if kind == "modules_to_save":
        adapted = add_adapter(model, save_head=True)
    else:
        options = {
            "lora": dict(target_modules=["lm_head"]),
            "dora": dict(target_modules=["lm_head"], use_dora=True),
            "trainable tokens": dict(
                target_modules=["q_proj"], trainable_token_indices={"lm_head": IDS}
            ),
        }[kind]
        adapted = get_peft_model(model, LoraConfig(r=4, **options)).eval()
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "delta" in name:
                parameter.add_(torch.randn(parameter.shape), alpha=0.3)
    check_rows(adapted)
    assert not torch.allclose(head_rows(adapted, IDS)[0], base, atol=1e-2)
    with adapted.disable_adapter():
        torch.testing.assert_close(head_rows(adapted, IDS)[0], base, atol=1e-5, rtol=0)


def test_reading_rows_moves_no_random_numbers():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    head_rows(tiny_model("llama"), IDS)
    assert torch.equal(torch.rand(3), expected)
