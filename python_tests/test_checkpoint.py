"""Selectors on disk: what is saved is what is loaded, and what does not fit is refused by name."""

import json

import pytest
import torch
from models import VOCAB, add_adapter, build_model, make_selector
from safetensors.torch import save_file

import s2t_ext
from s2t_ext.checkpoint import BARE_CONFIG_NAME, BARE_HEAD_NAME, HEAD_NAME, describe_base_model
from s2t_ext.config import CONFIG_NAME
from s2t_ext.reserved_tokens import find_unused_ids, head_rows


def saved_selector(model, folder):
    width = model.config.hidden_size
    selector = s2t_ext.Selector(
        torch.randn(5, width),
        bias=torch.randn(5),
        reserved_ids=(90, 88),
        bin_temperature=0.7,
        prior_weight=0.3,
        trigger_head=(torch.randn(width), -1.5),
        base_model=describe_base_model(model),
        calibrations={"entropy": s2t_ext.Calibration(1.25, 0.01, 1000, "abc")},
        decoding=s2t_ext.S2TConfig(k=4, trigger="entropy", proposer="base"),
    )
    selector.save_pretrained(folder)
    return selector


def test_round_trip(tmp_path):
    model = build_model("llama")
    before = saved_selector(model, tmp_path)
    after = s2t_ext.Selector.from_pretrained(tmp_path, model)
    assert torch.equal(after.rows, before.rows) and torch.equal(after.bias, before.bias)
    assert torch.equal(after.bin_values, before.bin_values)
    assert torch.equal(after.trigger_head.weight, before.trigger_head.weight)
    for name in ("reserved_ids", "bin_temperature", "prior_weight", "base_model", "calibrations"):
        assert getattr(after, name) == getattr(before, name)
    assert after.decoding == before.decoding
    assert after.trigger_head.bias == before.trigger_head.bias
    config = s2t_ext.S2TConfig.from_pretrained(tmp_path, k=2)
    assert config == s2t_ext.S2TConfig(k=2, trigger="entropy", proposer="base")


def test_overrides_replace_what_is_stored(tmp_path):
    saved_selector(build_model("llama"), tmp_path)
    assert s2t_ext.Selector.from_pretrained(tmp_path, prior_weight=0.0).prior_weight == 0.0


def test_a_bare_score_head_is_read(tmp_path):
    rows = torch.randn(16, 32)
    save_file({"rows": rows, "bias": torch.zeros(16)}, tmp_path / BARE_HEAD_NAME)
    settings = {"prior_weight": 0.1, "k": 8, "entropy_threshold": {"1%": 1.8, "5%": 1.1}}
    (tmp_path / BARE_CONFIG_NAME).write_text(json.dumps(settings))
    selector = s2t_ext.Selector.from_pretrained(tmp_path, build_model("llama"))
    assert torch.equal(selector.rows, rows) and selector.prior_weight == 0.1
    assert selector.calibrations["entropy"] == s2t_ext.Calibration(1.8, 0.01)


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"path_or_repo must hold {CONFIG_NAME}"):
        s2t_ext.Selector.from_pretrained(tmp_path)
    saved_selector(build_model("llama"), tmp_path)
    head = tmp_path / HEAD_NAME
    content = head.read_bytes()
    head.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"{HEAD_NAME} must be a complete safetensors file"):
        s2t_ext.Selector.from_pretrained(tmp_path)
    head.unlink()
    with pytest.raises(FileNotFoundError, match=f"{HEAD_NAME} must be in the checkpoint"):
        s2t_ext.Selector.from_pretrained(tmp_path)
    (tmp_path / CONFIG_NAME).write_text("{")
    with pytest.raises(ValueError, match=f"{CONFIG_NAME} must be valid JSON"):
        s2t_ext.Selector.from_pretrained(tmp_path)
    (tmp_path / CONFIG_NAME).write_text('{"format_version": 99}')
    with pytest.raises(ValueError, match="format_version must be 1, got 99"):
        s2t_ext.Selector.from_pretrained(tmp_path)


def test_a_selector_for_another_model_is_refused(tmp_path):
    saved_selector(build_model("llama"), tmp_path)
    other = build_model("llama", seed=5)
    with pytest.raises(ValueError, match="generate: selector must belong to the model"):
        s2t_ext.Selector.from_pretrained(tmp_path, other)
    narrow = s2t_ext.Selector(torch.zeros(4, 7))
    with pytest.raises(ValueError, match="must have rows of the model's hidden size"):
        narrow.check_fits(other)
    outside = s2t_ext.Selector(torch.zeros(4, other.config.hidden_size), reserved_ids=(10**6,))
    with pytest.raises(ValueError, match=f"reserve ids below the vocabulary size {VOCAB}"):
        outside.check_fits(other)


def test_an_adapter_travels_with_its_selector_and_merges(tmp_path):
    adapted = add_adapter(build_model("llama"))
    plain = adapted.get_base_model()
    selector = make_selector(plain)
    selector.adapted_model = adapted
    selector.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()
    with pytest.raises(ValueError, match="model must be given for a checkpoint with an adapter"):
        s2t_ext.Selector.from_pretrained(tmp_path)
    model = build_model("llama")
    loaded = s2t_ext.Selector.from_pretrained(tmp_path, model)
    ids = torch.arange(4, 12)[None]
    expected = plain(ids).logits
    assert torch.equal(model(ids).logits, expected)  # the adapter was attached in place
    merged = loaded.merge()
    torch.testing.assert_close(merged(ids).logits, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="merge: selector must hold an adapter, got none"):
        loaded.merge()


@pytest.mark.parametrize("tied", [False, True])
def test_a_research_adapter_gives_its_score_rows(tmp_path, tied):
    config = build_model("llama").config
    config.tie_word_embeddings = tied
    adapted = add_adapter(build_model(config), save_head=True)
    adapted.save_pretrained(tmp_path)
    reserved = list(range(80, 96))
    expected, _, _ = head_rows(adapted, reserved)
    model = build_model(config)
    selector = s2t_ext.Selector.from_pretrained(tmp_path, model, reserved_ids=reserved)
    assert torch.equal(selector.rows, expected)
    assert selector.reserved_ids == tuple(reserved)


def test_unused_ids_are_rows_without_a_name_in_use():
    class Tokenizer:
        all_special_ids = (0, 7)
        chat_template = "uses <unused3>"

        def get_vocab(self):
            named = {"<unused1>": 4, "<unused3>": 5, "[PAD151700]": 6, "<unused9>": 7}
            return {"<pad>": 0, "a": 1, "b": 2, "c": 3, **named}

    assert find_unused_ids(Tokenizer(), 10) == [4, 6, 8, 9]


@pytest.mark.parametrize("name", ["llama", "granite", "gemma2"])
def test_rows_of_a_head_reproduce_its_logits(name):
    model = build_model(name)
    ids = [3, 50, 91]
    rows, bias, post = head_rows(model, ids)
    hidden = torch.randn(4, model.config.hidden_size)
    logits = hidden @ rows.T + (0 if bias is None else bias)
    torch.testing.assert_close(logits, model.get_output_embeddings()(hidden)[:, ids])
    tokens = torch.arange(4, 10)[None]
    state = model.base_model(tokens).last_hidden_state
    torch.testing.assert_close(
        post.apply(state @ rows.T + (0 if bias is None else bias)), model(tokens).logits[..., ids]
    )
