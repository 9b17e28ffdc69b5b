"""The state before a candidate forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache

from s2t_ext.hf.cache_layers import CacheLayerMixin, DummyLayer


@dataclass
class CandidateContext:
    """The state before a candidate forward: the cache holds n tokens, c pending ones follow, then
    the candidates.

    Attributes:
        cache: Keys and values of the first n tokens of every row; None in a generation without a
            cache.
        input_ids: int64 [batch, n + c], every token so far (only those after the prompt, if the
            prompt came as embeddings).
        num_pending: c, how many of them the cache has not seen; 0 in the ordinary loop.
        attention_mask: int64 [batch, n + c + 1] including the candidates' own position, or None
            without padding.
        position_ids: int64 [batch, n + c + 1], or None for models that take none.
        model_kwargs: Everything else `generate` passes to the model.
        compile_config: How transformers compiles its own forwards of this generation; None where it
            does not.
        padded: False if `attention_mask` is known to be all ones.
    """

    cache: Any
    input_ids: torch.Tensor
    num_pending: int
    attention_mask: torch.Tensor | None
    position_ids: torch.Tensor | None
    model_kwargs: dict[str, Any]
    compile_config: Any = None
    padded: bool = True

    @property
    def token_mask(self) -> torch.Tensor | None:
        """Bool [batch, n + c], the real tokens so far; None without padding."""
        if self.attention_mask is None or not self.padded:
            return None
        return self.attention_mask[:, :-1].bool()

    @property
    def mask_fits_cache(self) -> bool:
        """Whether every layer holds the tokens that the mask speaks of. One whose entries somebody
        dropped does not, and which columns of the mask remain is the model's own rule.
        """
        mask = self.token_mask
        if mask is None:
            return True
        layers = [layer for layer in self.cache.layers if not isinstance(layer, DummyLayer)]
        cached = mask.shape[1] - self.num_pending
        return all(layer.get_seq_length() in (0, cached) for layer in layers)  # 0: reads another's

    @property
    def pending(self) -> torch.Tensor:
        """The last c tokens, int64 [batch, c]."""
        return self.input_ids[:, self.input_ids.shape[1] - self.num_pending :]


def cached_tokens(cache: Cache | None) -> int:
    """Tokens a cache has seen; 0 for purely recurrent ones, which do not count them."""
    layers = getattr(cache, "layers", ())
    if cache is None or not any(isinstance(layer, CacheLayerMixin) for layer in layers):
        return 0
    return int(cache.get_seq_length())
