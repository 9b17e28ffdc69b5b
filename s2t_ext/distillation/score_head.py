"""The trained part of a selector besides the adapter: score head, prior weight, trigger head."""

from __future__ import annotations

import hashlib
import json
import operator

import torch
from torch import nn

from s2t_ext.hf.logits_head import PostProcessing
from s2t_ext.selectors.parts import Projection, TriggerHead, trigger_logprobs
from s2t_ext.selectors.selector import Selector


class ScoreHead(nn.Module):
    """score = sum_r v_r softmax((post(rows . f(h) + bias)) / T_bin)_r, plus prior_weight * log p;
    f(h) = GELU(linear(LayerNorm(h))), or h without a hidden layer.

    Args:
        hidden_size: D.
        bins: R.
        post: What the model does to its head's outputs, applied to the row logits too.
        use_prior: Train a prior weight, starting from `prior_weight`; otherwise it stays 0 (the
        paper).
        hidden_scale: Typical norm of a hidden state; sets the size of the initial rows.
        width: Units of the hidden layer, W; 0 for none.
        dropout: Of the normalised states and of the units, while training.
        layer: Whose states it is given (`Selector.layer`); only kept.
        num_logprobs: How many of the student's best log-probabilities the trigger reads.
    """

    def __init__(
        self,
        hidden_size: int,
        bins: int = 16,
        *,
        post: PostProcessing | None = None,
        bin_temperature: float = 1.0,
        use_prior: bool = True,
        prior_weight: float = 0.1,
        hidden_scale: float | None = None,
        width: int = 0,
        dropout: float = 0.0,
        layer: int | None = None,
        num_logprobs: int = 0,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(bins, width or hidden_size, generator=generator)
        scale = hidden_scale if hidden_scale and not width else (width or hidden_size) ** 0.5
        self.rows = nn.Parameter((noise * (0.5 / scale)).to(dtype))
        self.bias = nn.Parameter(torch.zeros(bins, dtype=dtype))
        weight = torch.tensor(prior_weight if use_prior else 0.0, dtype=dtype)
        self.prior_weight = nn.Parameter(weight, requires_grad=use_prior)
        self.trigger_weight = nn.Parameter(torch.zeros(hidden_size, dtype=dtype))
        self.trigger_bias = nn.Parameter(torch.zeros((), dtype=dtype))
        # Before it has learnt anything, the trigger is the entropy.
        self.trigger_entropy_weight = nn.Parameter(torch.ones((), dtype=dtype))
        weights = torch.zeros(num_logprobs, dtype=dtype)
        self.trigger_logprob_weights = nn.Parameter(weights, requires_grad=num_logprobs > 0)
        self.register_buffer("bin_values", torch.linspace(0, 1, bins, dtype=dtype))
        self.hidden_layer = _hidden_layer(hidden_size, width, dropout, seed) if width else None
        if self.hidden_layer is not None:
            self.hidden_layer.to(dtype)
        self.layer = layer
        self.post = post or PostProcessing()
        self.bin_temperature = bin_temperature
        self.bin_values: torch.Tensor

    @torch.no_grad()
    def start_from(self, selector: Selector) -> None:
        """Takes over a selector's score rows, bias and trigger head.

        Not its prior weight: that was chosen on the held-out groups, and may be so large that the
        scores would learn nothing beside it.

        Raises:
            ValueError: if its head is of another form than this one.
        """
        own = self.to_selector()
        for name in ("num_bins", "bin_temperature", "bin_values", "logit_scale", "softcap"):
            expected, actual = getattr(own, name), getattr(selector, name)
            equal = torch.equal if isinstance(expected, torch.Tensor) else operator.eq
            if not equal(expected, actual):
                raise ValueError(f"distill: start must have {name} {expected}, got {actual}")
        if (own.projection is None) != (selector.projection is None) or own.layer != selector.layer:
            raise ValueError(
                "distill: start must have a head of the same form, got one with "
                f"{_form(selector)} instead of {_form(own)}"
            )
        if self.hidden_layer is not None and selector.projection is not None:
            values = selector.projection.tensors()
            for module, prefix in ((0, "projection_norm_"), (2, "projection_")):
                for name, parameter in self.hidden_layer.get_submodule(
                    str(module)
                ).named_parameters():
                    parameter.copy_(values[prefix + name])
        self.rows.copy_(selector.rows)
        self.bias.zero_()
        if selector.bias is not None:
            self.bias.copy_(selector.bias)
        if selector.trigger_head is not None:
            self.trigger_weight.copy_(selector.trigger_head.weight)
            self.trigger_bias.fill_(selector.trigger_head.bias)
            self.trigger_entropy_weight.fill_(selector.trigger_head.entropy_weight)
            weights = selector.trigger_head.logprob_weights
            if weights is not None:
                if weights.shape != self.trigger_logprob_weights.shape:
                    raise ValueError(
                        "distill: collection must hold the log-probabilities that the trigger head "
                        f"of start reads ({weights.numel()} a step; collect again), got "
                        f"{self.trigger_logprob_weights.numel()}"
                    )
                self.trigger_logprob_weights.copy_(weights)

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores [...] of hidden states [..., D], without the prior term."""
        hidden = hidden.to(self.rows.dtype)
        if self.hidden_layer is not None:
            hidden = self.hidden_layer(hidden)
        logits = self.post.apply(hidden @ self.rows.T + self.bias) / self.bin_temperature
        return logits.softmax(dim=-1) @ self.bin_values

    def totals(self, hidden: torch.Tensor, student_logprobs: torch.Tensor) -> torch.Tensor:
        """score + prior_weight * log p [G, K]; hidden [G, K, D]. Slots with log p = -inf get 0 of
        it.
        """
        prior = student_logprobs.to(self.rows.dtype)
        prior = prior.masked_fill(prior == float("-inf"), 0.0)
        return self.scores(hidden) + self.prior_weight * prior

    def trigger_logits(
        self, hidden: torch.Tensor, entropy: torch.Tensor, logprobs: torch.Tensor
    ) -> torch.Tensor:
        """[S] of hidden states [S, D], entropies [S], nats, of which NaN counts as 0, and the best
        log-probabilities [S, at least num_logprobs]. The hidden states are detached: the trigger
        must not bend the model.
        """
        hidden = hidden.detach().to(self.rows.dtype)
        known = entropy.to(self.rows.dtype).nan_to_num(nan=0.0)
        count = self.trigger_logprob_weights.numel()
        best = trigger_logprobs(logprobs, count).to(self.rows.dtype)
        return (
            hidden @ self.trigger_weight
            + self.trigger_bias
            + self.trigger_entropy_weight * known
            + best @ self.trigger_logprob_weights
        )

    def to_selector(self, **options: object) -> Selector:
        """A `Selector` with a copy of the weights; options as of `Selector`."""
        weights = self.trigger_logprob_weights.detach().float().cpu().clone()
        head = TriggerHead(
            self.trigger_weight.detach().float().cpu().clone(),
            float(self.trigger_bias.detach()),
            float(self.trigger_entropy_weight.detach()),
            weights if weights.numel() else None,
        )
        return Selector(
            self.rows.detach().float().cpu().clone(),
            self.bias.detach().float().cpu().clone(),
            self.bin_values.float().cpu().clone(),
            bin_temperature=self.bin_temperature,
            prior_weight=float(self.prior_weight.detach()),
            trigger_head=head,
            logit_scale=self.post.scale,
            softcap=self.post.softcap,
            projection=self._projection(),
            layer=self.layer,
            **options,  # type: ignore[arg-type]
        )

    def _projection(self) -> Projection | None:
        if self.hidden_layer is None:
            return None
        norm, linear = (dict(self.hidden_layer.get_submodule(n).named_parameters()) for n in "02")
        parts = (norm["weight"], norm["bias"], linear["weight"], linear["bias"])
        return Projection(*(part.detach().float().cpu().clone() for part in parts))


def _hidden_layer(size: int, width: int, dropout: float, seed: int) -> nn.Sequential:
    """The modules of `Projection` at places 0, 2 and 3, with dropout between them."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        linear = nn.Linear(size, width)
    drop = nn.Dropout(dropout)
    return nn.Sequential(nn.LayerNorm(size), drop, linear, nn.GELU(), drop)


def _form(selector: Selector) -> str:
    units = 0 if selector.projection is None else selector.rows.shape[1]
    return f"{units} hidden units on layer {selector.layer or 'last'}"


def head_digest(selector: Selector) -> str:
    """Identifies what `ScoreHead.start_from` takes over, by its numbers."""
    head = selector.trigger_head
    parts = [selector.rows, selector.bias]
    parts += [] if selector.projection is None else list(selector.projection.tensors().values())
    if head is not None:
        parts += [head.weight, torch.tensor([head.bias, head.entropy_weight])]
        parts.append(head.logprob_weights)
    numbers = [None if part is None else part.double().flatten().tolist() for part in parts]
    return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()[:16]
