"""One tree forward of all candidates is each one's own, alone or in a batch, in any thread."""

import threading

import pytest
import torch
from architectures import ARCHITECTURES, PROMPT
from models import make_selector, prompts, tiny_model, way_in

from s2t_ext import S2TConfig
from s2t_ext.decoding.steps.tree_step import TreeStep
from s2t_ext.hf.attention.candidate_attention import ATTENTION_NAME, attention_configs
from s2t_ext.hf.attention.ragged_rows import RaggedRows
from s2t_ext.hf.cache_argument import CACHE_ARGUMENT
from s2t_ext.hf.candidate_cache import candidate_cache
from s2t_ext.hf.context import CandidateContext
from s2t_ext.hf.logits_head import find_logits_head

TREES = [name for name, a in ARCHITECTURES.items() if a.step_mode == "tree"]


@pytest.mark.parametrize("needed", [(True, True, True), (False, True, False)])
@pytest.mark.parametrize("pending", [0, 1, 5, PROMPT])
@pytest.mark.parametrize("name", TREES)
@torch.no_grad()
def test_a_tree_forward_is_every_candidates_own(name, pending, needed):
    """Hidden states of prefix + pending + candidate, each from scratch, without padding; and the
    logits after the winner's next token, from the committed cache. Of a row that needs no choice
    only slot 0 matters, and only it goes through the model.
    """
    model, (ids, mask) = tiny_model(name), prompts(True)
    step = TreeStep(find_logits_head(model), ragged=True)
    candidates = torch.tensor([[5, 6, 7, 8], [9, 5, 11, 12], [13, 14, 15, 5]])
    cache = candidate_cache(model.config.get_text_config(decoder=True))
    positions = (torch.cat([mask, mask[:, -1:]], 1).cumsum(-1) - 1).clamp(min=0)
    seen = PROMPT - pending
    if seen:
        inputs = dict(attention_mask=mask[:, :seen], position_ids=positions[:, :seen])
        model(input_ids=ids[:, :seen], **{CACHE_ARGUMENT: cache}, **inputs)
    grown = torch.cat([mask, mask[:, -1:]], dim=1)
    context = CandidateContext(cache, ids, pending, grown, positions, {})
    forward = step.forward(context, candidates, torch.tensor(needed))
    hidden = forward.hidden
    assert hidden.shape[:2] == (3, 4) and hidden.isfinite().all()
    slots = [4 if row else 1 for row in needed]
    assert (forward.passes, forward.tokens) == (1, 3 * pending + sum(slots))
    slot = torch.tensor([2, 1, 3]) * torch.tensor(needed)
    committed = forward.commit(slot)
    assert committed.cache.get_seq_length() == PROMPT + 1
    following = torch.tensor([[21], [22], [23]])
    after = model(
        input_ids=following,
        **{CACHE_ARGUMENT: cache},
        attention_mask=torch.cat([grown, mask[:, -1:]], dim=1),
        position_ids=positions[:, -1:] + 1,
    ).logits[:, -1]
    for b in range(3):
        prefix = ids[b, mask[b].bool()]
        for c in range(slots[b]):
            whole = torch.cat([prefix, candidates[b, c, None]])[None]
            expected, logits = _from_scratch(model, whole)
            torch.testing.assert_close(hidden[b, c], expected, atol=5e-5, rtol=1e-4)
            if c == slot[b]:
                torch.testing.assert_close(committed.hidden[b], expected, atol=5e-5, rtol=1e-4)
                torch.testing.assert_close(committed.logits[b], logits, atol=5e-5, rtol=1e-4)
                _, logits = _from_scratch(model, torch.cat([whole, following[b, None]], dim=1))
                torch.testing.assert_close(after[b], logits, atol=5e-5, rtol=1e-4)


def _from_scratch(model, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    from s2t_ext.reference.decoding import _last_state

    logits, hidden = _last_state(model, ids)
    return hidden[0], logits[0]


def test_ragged_rows_keep_what_matters():
    """Rows of one pending token and three candidates; the second needs no choice."""
    rows = RaggedRows(torch.tensor([True, False, True]), num_pending=1, num_candidates=3)
    padded = torch.arange(12).view(3, 4)
    ragged = rows.pack(padded)
    assert ragged.tolist() == [[0, 1, 2, 3, 4, 5, 8, 9, 10, 11]] and rows.tokens == 10
    expected = [[0, 1, 2, 3], [4, 5, 5, 5], [8, 9, 10, 11]]
    assert rows.unpack(ragged).tolist() == expected
    assert rows.unpack(ragged, first=2).tolist() == [row[2:] for row in expected]
    with pytest.raises(ValueError):  # as after a hook that adds something per row
        rows.unpack(ragged + torch.arange(3)[:, None])
    heads = torch.stack([ragged, ragged + 100], dim=1)[..., None]  # [1, heads, tokens, size]
    unpacked = rows.unpack_heads(heads)
    assert unpacked[:, 0, :, 0].tolist() == expected
    assert torch.equal(unpacked[:, 1], unpacked[:, 0] + 100)


@pytest.mark.parametrize("name", ["llama", "gemma3", "falcon_h1"])
def test_generations_at_once_on_one_model(name):
    """Trees, expanded batches, learned triggers and plain generation, each as if it were alone."""
    model, inputs = tiny_model(name), prompts(True)
    selector = make_selector(model, trigger_head=(torch.randn(32), 0.0))
    half = dict(k=4, threshold=0.5, warmup_steps=0)
    calls = [
        way_in("generate", model, S2TConfig(trigger=trigger, step=step, **half), selector, seed=3)
        for trigger, step in (("random", "auto"), ("random", "expand"), ("head", "auto"))
    ] + [model.generate]
    arguments = dict(
        input_ids=inputs.ids, attention_mask=inputs.mask, max_new_tokens=10, do_sample=False
    )
    expected = [call(**arguments) for call in calls]
    wrong, barrier = [], threading.Barrier(len(calls))

    def repeat(index):
        try:
            barrier.wait()
            for _ in range(5):
                if not torch.equal(calls[index](**arguments), expected[index]):
                    wrong.append(index)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=repeat, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert (
        {c._attn_implementation for c in attention_configs(model)}
        == {tiny_model(name).config._attn_implementation}
        != {ATTENTION_NAME}
    )
