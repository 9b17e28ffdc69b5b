"""Selectors on disk: the way there and back, foreign forms, and every way a folder can be wrong."""

import json
import shutil

import pytest
import torch
from models import (
    add_adapter,
    build_model,
    make_selector,
    make_tokenizer,
    one_thread,  # noqa: F401
    prompts,
    tiny_model,
    way_in,
)
from safetensors.torch import load_file, save_file

from s2t_ext import Calibration, S2TConfig, Selector
from s2t_ext.checkpoint import STORED_OPTIONS, describe_base_model, push_selector
from s2t_ext.decoding.adapters import has_adapter

ALWAYS = S2TConfig(k=4, trigger="always", warmup_steps=0)


def full_selector(model) -> Selector:
    """Every part a selector can have, but an adapter."""
    generator = torch.Generator().manual_seed(1)
    return make_selector(
        model,
        bins=5,
        bias=torch.randn(5, generator=generator),
        bin_values=torch.rand(5, generator=generator),
        reserved_ids=(90, 91),
        bin_temperature=0.7,
        prior_weight=0.125,
        trigger_head=(torch.randn(32, generator=generator), -0.5),
        logit_scale=0.5,
        softcap=9.0,
        base_model=describe_base_model(model),
        calibrations={
            "entropy": Calibration(1.25, 0.01, 1234, "abc"),
            "head": Calibration(0.5, 0.1),
        },
        decoding=S2TConfig(k=3, support=16, trigger="margin", threshold=0.5),
    )


def generated(model, selector, config=ALWAYS) -> torch.Tensor:
    inputs = prompts(True)
    return way_in("generate", model, config, selector)(
        input_ids=inputs.ids, attention_mask=inputs.mask, max_new_tokens=6, do_sample=False
    )


def assert_same(a: Selector, b: Selector) -> None:
    for name in ("rows", "bin_values", "bias"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    for name in (*STORED_OPTIONS, "base_model", "calibrations", "decoding"):
        assert getattr(a, name) == getattr(b, name), name
    assert torch.equal(a.trigger_head.weight, b.trigger_head.weight)
    assert a.trigger_head.bias == b.trigger_head.bias


def message(folder, model=None, kind=ValueError, **options) -> str:
    with pytest.raises(kind) as error:
        Selector.from_pretrained(folder, model, **options)
    return str(error.value)


# ---- our own form --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip(dtype, tmp_path):
    model = tiny_model("llama")
    selector = full_selector(model)
    selector.rows = selector.rows.to(dtype)
    assert selector.save_pretrained(tmp_path / "s") == tmp_path / "s"
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [
        "s2t_config.json",
        "s2t_head.safetensors",
    ]
    loaded = Selector.from_pretrained(tmp_path / "s", model)
    assert_same(loaded, selector)
    assert loaded.rows.dtype == dtype
    assert torch.equal(generated(model, loaded), generated(model, selector))
    assert loaded.adapted_model is None
    content = json.loads((tmp_path / "s" / "s2t_config.json").read_text())
    assert content["format_version"] == 1 and content["library_version"]
    assert_same(Selector.from_pretrained(str(tmp_path / "s")), selector)  # without a model


def test_options_replace_what_is_stored(tmp_path):
    full_selector(tiny_model("llama")).save_pretrained(tmp_path)
    loaded = Selector.from_pretrained(tmp_path, prior_weight=0.0, decoding=S2TConfig(k=1))
    assert loaded.prior_weight == 0.0 and loaded.decoding.k == 1 and loaded.bin_temperature == 0.7


def test_saving_again_replaces_and_leaves_nothing_else(tmp_path):
    model = tiny_model("llama")
    full_selector(model).save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    other = make_selector(model, seed=8)
    other.save_pretrained(tmp_path)
    assert torch.equal(Selector.from_pretrained(tmp_path).rows, other.rows)
    assert Selector.from_pretrained(tmp_path).trigger_head is None
    assert {p.name for p in tmp_path.iterdir()} == {
        "README.md",
        "s2t_config.json",
        "s2t_head.safetensors",
    }


def test_an_interrupted_save_leaves_the_old_one(tmp_path, monkeypatch):
    model = tiny_model("llama")
    selector = full_selector(model)
    selector.save_pretrained(tmp_path)

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("s2t_ext.checkpoint.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_selector(model, seed=8).save_pretrained(tmp_path)
    assert_same(Selector.from_pretrained(tmp_path), selector)
    assert len(list(tmp_path.iterdir())) == 2


# ---- wrong models and broken files ---------------------------------------------------------------


def test_another_model_is_refused(tmp_path):
    full_selector(tiny_model("llama")).save_pretrained(tmp_path)
    assert "selector must belong to the model (model_type qwen2)" in message(
        tmp_path, tiny_model("qwen2")
    )
    assert "selector must belong to the model (fingerprint " in message(
        tmp_path, build_model("llama", seed=3)
    )
    wider = build_model(type(tiny_model("llama").config)(hidden_size=64, num_attention_heads=4))
    assert message(tmp_path, wider) == (
        "generate: selector must have rows of the model's hidden size 64, got 32"
    )


def test_a_folder_without_a_selector(tmp_path):
    assert message(tmp_path, kind=FileNotFoundError) == (
        f"load_selector: path_or_repo must hold s2t_config.json, got {tmp_path}"
    )
    nowhere = tmp_path / "nowhere"
    assert message(nowhere, kind=FileNotFoundError).startswith("load_selector: path_or_repo must ")


def test_a_path_that_is_a_file_or_no_repository(tmp_path):
    path = tmp_path / "s2t_head.safetensors"
    path.write_bytes(b"")
    for place in (path, "no such/repository/at all", "nobody/nothing"):
        text = message(place, kind=FileNotFoundError)
        assert text.startswith("load_selector: path_or_repo must ") and str(place) in text


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_truncated_head(kept, tmp_path):
    full_selector(tiny_model("llama")).save_pretrained(tmp_path)
    path = tmp_path / "s2t_head.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert message(tmp_path).startswith(
        "load_selector: s2t_head.safetensors must be a complete safetensors file, got "
    )


def test_a_missing_head(tmp_path):
    full_selector(tiny_model("llama")).save_pretrained(tmp_path)
    (tmp_path / "s2t_head.safetensors").unlink()
    assert message(tmp_path, kind=FileNotFoundError) == (
        f"load_selector: s2t_head.safetensors must be in the checkpoint, got none in {tmp_path}"
    )


def test_a_pickle_in_place_of_the_head(tmp_path):
    full_selector(tiny_model("llama")).save_pretrained(tmp_path)
    torch.save({"rows": torch.zeros(5, 32)}, tmp_path / "s2t_head.safetensors")
    assert "must be a complete safetensors file" in message(tmp_path)


def test_a_head_without_rows_or_with_others(tmp_path):
    full_selector(tiny_model("llama")).save_pretrained(tmp_path)
    path = tmp_path / "s2t_head.safetensors"
    save_file({"bias": torch.zeros(5)}, path)
    assert message(tmp_path) == "load_selector: s2t_head.safetensors must hold 'rows', got bias"
    save_file({}, path)
    assert message(tmp_path) == "load_selector: s2t_head.safetensors must hold 'rows', got nothing"
    save_file({"rows": torch.zeros(4, 32)}, path)
    assert message(tmp_path) == (
        "load_selector: s2t_head.safetensors must have 5 rows, as its configuration says, got 4"
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c.update(format_version=2), "format_version must be 1, got 2"),
        (lambda c: c.pop("format_version"), "format_version must be 1, got None"),
        (
            lambda c: c.pop("selector"),
            "s2t_config.json must be one that save_pretrained wrote, got KeyError: 'selector'",
        ),
        (
            lambda c: c["selector"].pop("prior_weight"),
            "s2t_config.json must be one that save_pretrained wrote, got KeyError: 'prior_weight'",
        ),
        (
            lambda c: c.update(calibration=[1]),
            "s2t_config.json must be one that save_pretrained wrote, got AttributeError: 'list' "
            "object has no attribute 'items'",
        ),
    ],
)
def test_a_configuration_of_another_kind(change, expected, tmp_path):
    full_selector(tiny_model("llama")).save_pretrained(tmp_path)
    path = tmp_path / "s2t_config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    assert message(tmp_path) == f"load_selector: {expected}"


def test_a_truncated_configuration(tmp_path):
    full_selector(tiny_model("llama")).save_pretrained(tmp_path)
    path = tmp_path / "s2t_config.json"
    path.write_text(path.read_text()[:100])
    assert message(tmp_path).startswith("load_selector: s2t_config.json must be valid JSON, got ")


# ---- adapters ------------------------------------------------------------------------------------


@pytest.mark.parametrize("save_head", [False, True])
def test_an_adapter_travels_with_its_selector(save_head, tmp_path):
    adapted = add_adapter(build_model("llama"), save_head=save_head)
    selector = make_selector(
        adapted.get_base_model(), base_model=describe_base_model(adapted), decoding=ALWAYS
    )
    selector.adapted_model = adapted
    expected = {p: generated(adapted, selector, c) for p, c in _proposers().items()}
    selector.save_pretrained(tmp_path)
    model = build_model("llama")
    loaded = Selector.from_pretrained(tmp_path, model)
    assert loaded.adapted_model.get_base_model() is model and has_adapter(model)
    for proposer, config in _proposers().items():
        assert torch.equal(generated(model, loaded, config), expected[proposer])
    assert not torch.equal(expected["base"], expected["adapted"])
    merged = loaded.merge()
    assert torch.equal(generated(merged, loaded), expected["adapted"])
    # Saved over its old self, the merged selector no longer brings the adapter.
    loaded.save_pretrained(tmp_path)
    again = Selector.from_pretrained(tmp_path, merged)
    assert again.adapted_model is None and not has_adapter(merged)
    assert torch.equal(generated(merged, again), expected["adapted"])


def _proposers() -> dict[str, S2TConfig]:
    return {
        name: S2TConfig(k=4, trigger="always", warmup_steps=0, proposer=name)
        for name in ("adapted", "base")
    }


@pytest.fixture(scope="module")
def adapter_folder(tmp_path_factory):
    """A selector folder with an adapter for the tiny Llama; copy it before you break it."""
    folder = tmp_path_factory.mktemp("selector")
    adapted = add_adapter(build_model("llama"))
    selector = make_selector(adapted.get_base_model(), base_model=describe_base_model(adapted))
    selector.adapted_model = adapted
    return selector.save_pretrained(folder)


@pytest.fixture
def folder(adapter_folder, tmp_path):
    return shutil.copytree(adapter_folder, tmp_path / "copy")


def test_an_adapter_needs_its_model(folder):
    assert message(folder) == (
        f"load_selector: model must be given for a checkpoint with an adapter, got None ({folder})"
    )


def test_an_adapter_needs_a_plain_model(folder):
    adapted = add_adapter(build_model("llama"))
    assert message(folder, adapted) == (
        "load_selector: model must be a plain transformers model to attach an adapter to, got "
        "PeftModel with an adapter"
    )
    assert message(folder, adapted.get_base_model()) == (
        "load_selector: model must be a plain transformers model to attach an adapter to, got "
        "LlamaForCausalLM with an adapter"
    )


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_of_the_adapter(name, folder):
    (folder / name).unlink()
    model = build_model("llama")
    assert message(folder, model, FileNotFoundError) == (
        f"load_selector: {name} must be in the checkpoint, got none in {folder}"
    )
    assert not has_adapter(model)


def test_a_pickled_adapter_is_refused(folder):
    """And not loaded."""
    weights = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    torch.save(weights, folder / "adapter_model.bin")
    model = build_model("llama")
    assert message(folder, model) == (
        "load_selector: the adapter must be in adapter_model.safetensors (loading a pickle can run "
        "any code), got adapter_model.bin"
    )
    assert not has_adapter(model)


def test_a_truncated_adapter(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    model = build_model("llama")
    assert message(folder, model).startswith(
        "load_selector: adapter_model.safetensors must be a complete safetensors file, got "
    )
    assert not has_adapter(model)


@pytest.mark.parametrize("change", ["wider", "deeper", "shallower", "other modules"])
def test_an_adapter_for_another_model_leaves_the_model_as_it_was(change, folder):
    """Its own configuration says nothing of the model; its tensors do."""
    (folder / "s2t_config.json").unlink()  # a research adapter names no base model
    options = tiny_model("llama").config.to_dict()
    options |= {
        "wider": dict(intermediate_size=48),
        "deeper": dict(num_hidden_layers=3),
        "shallower": dict(num_hidden_layers=1),
        "other modules": {},
    }[change]
    model = build_model(
        "gpt2" if change == "other modules" else type(tiny_model("llama").config)(**options)
    )
    before = {name: id(module) for name, module in model.named_modules()}
    model.lm_head.weight.requires_grad_(False)
    frozen = [p.requires_grad for p in model.parameters()]
    logits = model(input_ids=prompts(False).ids).logits
    text = message(folder, model, reserved_ids=range(80, 96))
    expected = {
        "wider": "Error(s) in loading state_dict",
        "deeper": "14 of its LoRA tensors missing and 0 without a layer",
        "shallower": "0 of its LoRA tensors missing and 14 without a layer",
        "other modules": "Target modules ",
    }[change]
    assert text.startswith(
        f"load_selector: adapter must fit {type(model).__name__}, got {expected}"
    )
    assert not has_adapter(model) and not hasattr(model, "peft_config")
    assert {name: id(module) for name, module in model.named_modules()} == before
    assert [p.requires_grad for p in model.parameters()] == frozen
    assert torch.equal(model(input_ids=prompts(False).ids).logits, logits)


# ---- the released research code's form -----------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("modules", [["lm_head"], ["lm_head", "embed_tokens"]])
def test_a_research_adapter(modules, tied, tmp_path):
    """A PEFT folder whose own head holds the score rows among the vocabulary's."""
    from peft import LoraConfig, get_peft_model

    def plain():
        options = tiny_model("llama").config.to_dict() | dict(tie_word_embeddings=tied)
        return build_model(type(tiny_model("llama").config)(**options))

    options = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], modules_to_save=modules)
    adapted = get_peft_model(plain(), options).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    adapted.save_pretrained(tmp_path)
    reserved = tuple(range(81, 97))
    base = describe_base_model(plain())
    model = plain()
    selector = Selector.from_pretrained(tmp_path, model, reserved_ids=reserved, prior_weight=0.1)
    assert selector.reserved_ids == reserved and selector.prior_weight == 0.1
    assert selector.base_model == base
    head = adapted.get_base_model().lm_head.modules_to_save["default"].weight
    assert torch.equal(selector.rows, head[81:97])
    ids = prompts(False).ids
    torch.testing.assert_close(model(input_ids=ids).logits, adapted(input_ids=ids).logits)
    output = generated(model, selector)
    assert not torch.isin(output[:, 9:], torch.tensor(reserved)).any()
    # Imported, it is a selector folder like any other.
    selector.save_pretrained(tmp_path / "imported")
    fresh = plain()
    loaded = Selector.from_pretrained(tmp_path / "imported", fresh)
    assert torch.equal(loaded.rows, selector.rows) and loaded.reserved_ids == reserved
    assert torch.equal(generated(fresh, loaded), output)
    assert torch.equal(generated(loaded.merge(), loaded), output)


def test_the_rows_of_a_research_adapter_are_found_by_its_tokenizer(tmp_path):
    """Those no token uses; here the vocabulary has 97 entries and the head 120 rows."""
    options = tiny_model("llama").config.to_dict() | dict(vocab_size=120)
    config = type(tiny_model("llama").config)(**options)
    add_adapter(build_model(config), save_head=True).save_pretrained(tmp_path)
    model = build_model(config)
    assert message(tmp_path, model) == (
        "load_selector: reserved_ids must be given where no tokenizer is found, got None "
        f"({tmp_path})"
    )
    make_tokenizer().save_pretrained(tmp_path)
    assert not has_adapter(model)
    assert Selector.from_pretrained(tmp_path, model).reserved_ids == tuple(range(97, 113))
    small = build_model("llama")
    text = message(tmp_path, small)
    assert text == (
        "load_selector: reserved_ids must be given where the vocabulary leaves fewer than 16 rows "
        "unused, got None and 0 unused rows"
    )
    text = message(tmp_path, small, reserved_ids=[96, 97])
    assert text == (
        "load_selector: reserved_ids must be one or more rows of the head, in [0, 97), got [97]"
    )
    assert not has_adapter(small)


# ---- a bare score head ---------------------------------------------------------------------------

BARE = {
    "base_model": "tiny llama",
    "num_bins": 16,
    "hidden_size": 32,
    "bin_temperature": 1.0,
    "prior_weight": 0.1105,
    "k": 8,
    "trigger": "entropy",
    "entropy_threshold": {"5%": 1.119, "1%": 1.801, "10%": 0.789},
    "vocabulary_ids": [],
}


def bare_head(folder, **changes) -> dict[str, torch.Tensor]:
    tensors = {
        "rows": torch.randn(16, 32) * 0.2,
        "bias": torch.randn(16),
        "bin_values": torch.linspace(0, 1, 16),
    }
    save_file(tensors, folder / "score_head.safetensors")
    (folder / "score_head.json").write_text(json.dumps({**BARE, **changes}))
    return tensors


def test_a_bare_score_head(tmp_path):
    """score_head.json and score_head.safetensors: an external head on a frozen backbone."""
    tensors = bare_head(tmp_path)
    model = tiny_model("llama")
    selector = Selector.from_pretrained(tmp_path, model)
    for name, tensor in tensors.items():
        assert torch.equal(getattr(selector, name), tensor)
    assert (selector.prior_weight, selector.bin_temperature) == (0.1105, 1.0)
    assert selector.reserved_ids == () and selector.adapted_model is None
    assert selector.base_model["name"] == "tiny llama"
    assert selector.calibrations == {"entropy": Calibration(1.801, 0.01)}
    assert selector.decoding == S2TConfig(k=8, trigger="entropy")
    selector.save_pretrained(tmp_path / "native")
    loaded = Selector.from_pretrained(tmp_path / "native", model)
    assert torch.equal(generated(model, loaded), generated(model, selector))
    assert loaded.calibrations == selector.calibrations


def test_a_bare_score_head_that_is_broken(tmp_path):
    bare_head(tmp_path, num_bins=8)
    assert message(tmp_path) == (
        "load_selector: score_head.safetensors must have 8 rows, as its configuration says, got 16"
    )
    bare_head(tmp_path)
    (tmp_path / "score_head.json").write_text("{")
    assert message(tmp_path).startswith("load_selector: score_head.json must be valid JSON, got ")
    bare_head(tmp_path)
    (tmp_path / "score_head.safetensors").unlink()
    assert message(tmp_path, kind=FileNotFoundError) == (
        f"load_selector: score_head.safetensors must be in the checkpoint, got none in {tmp_path}"
    )
    wide = type(tiny_model("llama").config)(hidden_size=64, num_attention_heads=4, vocab_size=50)
    bare_head(tmp_path)
    assert message(tmp_path, build_model(wide)) == (
        "generate: selector must have rows of the model's hidden size 64, got 32"
    )


# ---- the hub -------------------------------------------------------------------------------------


def test_push_uploads_the_folder(monkeypatch):
    """Creates the repository, then uploads what save_pretrained writes."""
    import huggingface_hub

    calls = []

    class Api:
        def create_repo(self, repo_id, **options):
            calls.append((repo_id, options))
            return f"hub/{repo_id}"

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            loaded = Selector.from_pretrained(folder_path)
            calls.append((repo_id, commit_message, loaded.num_bins))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    selector = full_selector(tiny_model("llama"))
    assert selector.push_to_hub("me/mine", private=True) == "hub/me/mine"
    assert push_selector(selector, "me/mine") == "hub/me/mine"
    assert calls == [
        ("me/mine", {"exist_ok": True, "private": True}),
        ("me/mine", "Upload s2t_ext selector", 5),
        ("me/mine", {"exist_ok": True}),
        ("me/mine", "Upload s2t_ext selector", 5),
    ]


def test_a_repository_is_downloaded_file_by_file(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    full_selector(tiny_model("llama")).save_pretrained(tmp_path)

    def download(repo_id, name):
        if repo_id != "me/mine" or not (tmp_path / name).exists():
            raise LocalEntryNotFoundError(name)
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert Selector.from_pretrained("me/mine", tiny_model("llama")).num_bins == 5
    assert S2TConfig.from_pretrained("me/mine").k == 3
    assert message("me/other", kind=FileNotFoundError) == (
        "load_selector: path_or_repo must hold s2t_config.json, got me/other"
    )
