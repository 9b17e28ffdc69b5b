import pytest
from command_line import TEMPLATE
from models import build_model, make_selector, make_tokenizer
from one_thread import one_thread

from s2t_ext import S2TConfig
from s2t_ext.hf.identity import describe_base_model

__all__ = ["folders", "one_thread"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Saved: a model with a chat template, and a selector for it."""
    root = tmp_path_factory.mktemp("cli")
    model = build_model("llama")
    model.generation_config.eos_token_id = None
    model.save_pretrained(root / "model")
    make_tokenizer(TEMPLATE).save_pretrained(root / "model")
    selector = make_selector(
        model,
        base_model=describe_base_model(model),
        decoding=S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0),
    )
    selector.save_pretrained(root / "selector")
    (root / "prompts.txt").write_text("one\n\ntwo\n")
    return root
