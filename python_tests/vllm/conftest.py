"""Tiny models on disk with selectors, and engines that serve them."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers as hf
from tokenizers import pre_tokenizers
from vllm_engine import EngineProcess

import s2t_ext
from s2t_ext.reference import decoding as reference_decoding
from s2t_ext.selectors.parts import Projection

VOCAB = 1024
RESERVED = range(1000, 1016)


def pytest_collection_modifyitems(items):
    """Without vllm all tests of this folder are left out."""
    if importlib.util.find_spec("vllm") is not None:
        return
    skip = pytest.mark.skip(reason="vllm is not installed (pip install 's2t_ext[vllm]')")
    for item in items:
        if item.get_closest_marker("vllm"):
            item.add_marker(skip)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The reference's models are tiny; a second thread would take the engine's core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Served:
    """A model on disk and in memory, with its selector.

    Attributes:
        folder: The model and its tokenizer.
        selector_folder: The selector.
        model: The same as transformers sees it.
        selector: The same in memory.
    """

    folder: Path
    selector_folder: Path
    model: hf.PreTrainedModel
    selector: s2t_ext.Selector

    def reference(self, prompt, config, new_tokens, **options):
        """The tokens of the specification, prompt left out."""
        ids = torch.tensor([prompt])
        tokens = s2t_ext.reference.decode(
            self.model,
            ids,
            config=config,
            selector=self.selector,
            max_new_tokens=new_tokens,
            **options,
        )
        return tokens[0, len(prompt) :].tolist()


def _served(folder: Path, config: hf.PretrainedConfig, layer: int | None = None) -> Served:
    """With `layer`, the selector reads that layer, by a hidden layer of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = hf.AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder / "model")
    _write_tokenizer(folder / "model")
    _, hidden = reference_decoding._last_state(model, torch.arange(3, 15)[None])
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(16, hidden.shape[1], generator=generator) / hidden.norm()
    weight = torch.randn(hidden.shape[1], generator=generator) / hidden.norm()
    projection = None
    if layer is not None:
        size = hidden.shape[1]
        units = torch.randn(48, size, generator=generator) / size**0.5
        projection = Projection(torch.ones(size), torch.zeros(size), units, torch.zeros(48))
        rows = torch.randn(16, 48, generator=generator) / 2
    selector = s2t_ext.Selector(
        rows,
        reserved_ids=RESERVED,
        prior_weight=0.01,
        trigger_head=s2t_ext.TriggerHead(weight, 0.0, 0.0, torch.tensor([0.1, -0.1])),
        projection=projection,
        layer=layer,
        decoding=s2t_ext.S2TConfig(trigger="never"),
    )
    selector.save_pretrained(folder / "selector")
    return Served(folder / "model", folder / "selector", model, selector)


def _write_tokenizer(folder: Path) -> None:
    """One token per byte, of the kind that transformers expects of Qwen2."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<s>", "</s>", "<unk>", *alphabet]
    hf.Qwen2Tokenizer(
        vocab={word: i for i, word in enumerate(words)},
        merges=[],
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
    ).save_pretrained(folder)


def _qwen2() -> hf.Qwen2Config:
    return hf.Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.08,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
    )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Served:
    """Qwen2 with four layers."""
    return _served(tmp_path_factory.mktemp("tiny"), _qwen2())


@pytest.fixture(scope="session")
def deep(tmp_path_factory) -> Served:
    """The same with a selector that has a hidden layer and reads the states of layer 2."""
    return _served(tmp_path_factory.mktemp("deep"), _qwen2(), layer=2)


@pytest.fixture(scope="session")
def sliding(tmp_path_factory) -> Served:
    """Gemma 3 with layers of both kinds: full attention, and a window of 40 tokens."""
    config = hf.Gemma3TextConfig(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        sliding_window=40,
        layer_types=["sliding_attention", "full_attention"] * 2,
        initializer_range=0.08,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
    )
    return _served(tmp_path_factory.mktemp("sliding"), config)


@pytest.fixture(scope="module")
def start(request):
    """Starts engines that end with the module."""
    started = []

    def start_engine(engine, served, server=None, **options):
        server = {"selector": str(served.selector_folder), **(server or {})}
        started.append(EngineProcess(engine, served.folder, server, **options))
        return started[-1]

    yield start_engine
    for each in started:
        each.close()
