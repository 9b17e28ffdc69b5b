"""Pretraining of the demo's student and teacher on worked solutions, next token by next token."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from s2t_ext.demo.problems import Problem, answer_of, problems, vocabulary


@dataclass(frozen=True)
class Recipe:
    """Size of a model and length of its training."""

    layers: int
    width: int
    heads: int
    steps: int
    batch: int = 64
    learning_rate: float = 3e-3
    seed: int = 0


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over the problems' vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    ids = {word: i for i, word in enumerate(vocabulary())}
    core = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
    )


def make_model(recipe: Recipe, vocab_size: int) -> LlamaForCausalLM:
    """An untrained Llama of the recipe's size."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=recipe.width,
        intermediate_size=3 * recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=256,
        initializer_range=recipe.width**-0.5,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config)


def pretrain(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, log_every: int = 100
) -> LlamaForCausalLM:
    """Trains a model from scratch; only the solutions are learned, not the prompts."""
    model = make_model(recipe, len(tokenizer)).train()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
    )
    stream = problems("pretrain", recipe.seed)
    start = time.perf_counter()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, recipe.steps)
        batch = encode(list(itertools.islice(stream, recipe.batch)), tokenizer)
        loss = response_loss(model, **batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % log_every == 0 or step + 1 == recipe.steps:
            print(
                f"step {step + 1}/{recipe.steps} loss {loss.item():.4f} "
                f"{time.perf_counter() - start:.0f} s",
                flush=True,
            )
    return model.eval()


def encode(batch: list[Problem], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Right-padded ids int64 [batch, length] and a bool mask of the response tokens."""
    prompts = tokenizer([p.prompt for p in batch])["input_ids"]
    solutions = tokenizer([p.solution for p in batch])["input_ids"]
    length = max(len(a) + len(b) + 1 for a, b in zip(prompts, solutions, strict=True))
    ids = torch.full((len(batch), length), tokenizer.pad_token_id)
    response = torch.zeros(len(batch), length, dtype=torch.bool)
    for i, (a, b) in enumerate(zip(prompts, solutions, strict=True)):
        row = torch.tensor([*a, *b, tokenizer.eos_token_id])
        ids[i, : len(row)] = row
        response[i, len(a) : len(row)] = True
    return {"ids": ids, "response": response}


def response_loss(model: Any, ids: torch.Tensor, response: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the response tokens; the head runs on their positions only."""
    hidden = model.base_model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    target = response[:, 1:]
    logits = model.lm_head(hidden[target])
    return torch.nn.functional.cross_entropy(logits, ids[:, 1:][target])


@torch.no_grad()
def greedy_accuracy(model: Any, tokenizer: Any, some: list[Problem]) -> float:
    """Share of problems whose greedy response ends in the right answer."""
    right = 0
    for begin in range(0, len(some), 64):
        part = some[begin : begin + 64]
        inputs = tokenizer([p.prompt for p in part], return_tensors="pt", padding=True)
        inputs.pop("token_type_ids", None)
        output = model.generate(**inputs, max_new_tokens=56, do_sample=False)
        texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :])
        right += sum(
            answer_of(t.replace("<eos>", "")) == p.answer for t, p in zip(texts, part, strict=True)
        )
    return right / len(some)


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over 5 %, then a cosine to a twentieth."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))
