"""Tiny configurations of many architectures, and how their candidates share a step."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import transformers as hf
from packaging.version import Version

VOCAB, HIDDEN = 97, 32
PAD, EOS, BOS = 0, 1, 2

# The window of the sliding models: shorter than PROMPT, so it is full from the start.
WINDOW, PROMPT = 7, 9


@dataclass(frozen=True)
class Architecture:
    """A tiny configuration, and how its candidates share a step.

    Attributes:
        build: Makes the configuration.
        step_mode: What `step="auto"` must come to, "tree" or "expand".
        new_tokens: How many to generate; few where a forward pass is slow.
    """

    build: Callable[[], hf.PretrainedConfig]
    step_mode: str = "tree"
    new_tokens: int = 12


_IDS = dict(pad_token_id=PAD, eos_token_id=EOS, bos_token_id=BOS)
_COMMON = dict(
    vocab_size=VOCAB,
    hidden_size=HIDDEN,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    **_IDS,
)
_GPT_LIKE = dict(vocab_size=VOCAB, n_layer=2, n_head=4, **_IDS)
_GEMMA = dict(
    head_dim=8,
    query_pre_attn_scalar=8,
    layer_types=["sliding_attention", "full_attention"],
)
# The upper half of the layers has no keys and values of its own.
_SHARED_KV = dict(
    num_hidden_layers=4,
    head_dim=8,
    sliding_window=WINDOW,
    layer_types=["sliding_attention", "full_attention"] * 2,
    num_kv_shared_layers=2,
    vocab_size_per_layer_input=VOCAB,
    hidden_size_per_layer_input=8,
)
_MOE = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)


def _llama_like(config: type[hf.PretrainedConfig], **options) -> Architecture:
    return Architecture(lambda: config(**{**_COMMON, **options}))


ARCHITECTURES: dict[str, Architecture] = {
    "llama": _llama_like(hf.LlamaConfig),
    "qwen2": _llama_like(hf.Qwen2Config),
    "qwen3": _llama_like(hf.Qwen3Config, head_dim=8),
    "mistral": _llama_like(hf.MistralConfig, sliding_window=None),
    "mistral_window": _llama_like(hf.MistralConfig, sliding_window=WINDOW),
    "gemma2": _llama_like(hf.Gemma2Config, sliding_window=WINDOW, **_GEMMA),
    # This window fills during the generation.
    "gemma3": _llama_like(hf.Gemma3TextConfig, sliding_window=PROMPT + 3, **_GEMMA),
    "gemma3n": _llama_like(
        hf.Gemma3nTextConfig,
        laurel_rank=4,
        altup_num_inputs=2,
        activation_sparsity_pattern=[0.0] * 4,
        **{**_SHARED_KV, "intermediate_size": [64] * 4},
    ),
    "gemma4": _llama_like(hf.Gemma4TextConfig, global_head_dim=16, **_SHARED_KV),
    "phi3": _llama_like(hf.Phi3Config),
    "gpt2": Architecture(lambda: hf.GPT2Config(n_embd=HIDDEN, n_positions=256, **_GPT_LIKE)),
    "gpt_neox": Architecture(
        lambda: hf.GPTNeoXConfig(**{k: v for k, v in _COMMON.items() if "key_value" not in k})
    ),
    "olmo2": _llama_like(hf.Olmo2Config),
    "granite": _llama_like(hf.GraniteConfig, logits_scaling=3.0),
    "smollm3": _llama_like(hf.SmolLM3Config, num_hidden_layers=4),
    "qwen3_moe": _llama_like(hf.Qwen3MoeConfig, head_dim=8, **_MOE),
    "mixtral": _llama_like(hf.MixtralConfig, num_local_experts=4),
    "cohere2": _llama_like(
        hf.Cohere2Config,
        sliding_window=WINDOW,
        logit_scale=0.3,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "gpt_oss": _llama_like(
        hf.GptOssConfig,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=WINDOW,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0),
    ),
    "mamba2": Architecture(
        lambda: hf.Mamba2Config(
            vocab_size=VOCAB,
            hidden_size=HIDDEN,
            num_hidden_layers=2,
            num_heads=8,
            head_dim=8,
            state_size=8,
            n_groups=2,
            chunk_size=8,
            **_IDS,
        ),
        "expand",
    ),
    "falcon_h1": Architecture(
        lambda: hf.FalconH1Config(
            **_COMMON,
            mamba_d_ssm=64,
            mamba_n_heads=8,
            mamba_d_head=8,
            mamba_d_state=8,
            mamba_n_groups=2,
            mamba_chunk_size=8,
            lm_head_multiplier=0.5,
        ),
        "expand",
    ),
    "qwen3_next": Architecture(
        lambda: hf.Qwen3NextConfig(
            **{**_COMMON, "num_hidden_layers": 4},
            head_dim=8,
            linear_num_value_heads=4,
            linear_num_key_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            shared_expert_intermediate_size=32,
            **_MOE,
        ),
        "expand",
        new_tokens=4,
    ),
    "bloom": Architecture(lambda: hf.BloomConfig(hidden_size=HIDDEN, **_GPT_LIKE), "expand"),
}


#: Before 5.20, transformers restarts a model at that position with its last token only.
RESTARTS_WHOLE = pytest.mark.skipif(
    Version(hf.__version__) < Version("5.20"), reason="transformers itself restarts it wrongly"
)


def longrope_config(sliding_window: int | None = None) -> hf.PretrainedConfig:
    """Phi3 whose rope changes at position 12, inside the tests' generations."""
    rope = dict(
        rope_type="longrope",
        short_factor=[1.0] * 4,
        long_factor=[2.0] * 4,
        rope_theta=10000.0,
        original_max_position_embeddings=12,
        factor=64 / 12,
    )
    options = {**_COMMON, "max_position_embeddings": 64, "sliding_window": sliding_window}
    return hf.Phi3Config(**options, original_max_position_embeddings=12, rope_parameters=rope)
