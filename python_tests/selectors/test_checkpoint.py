"""Selectors on disk: the way there and back, the hub, and every way a folder can be wrong."""

import json

import pytest
import torch
from checkpoint_cases import assert_same, full_selector, generated, message
from models import build_model, make_selector, tiny_model
from safetensors.torch import save_file

from s2t_ext import S2TConfig, Selector

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

    monkeypatch.setattr("s2t_ext.selectors.storage.save", interrupted)
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
    assert selector.push_to_hub("me/mine") == "hub/me/mine"
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
