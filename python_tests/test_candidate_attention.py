"""The candidate forward: who sees whom; one forward of all candidates is each one's own."""

import threading

import pytest
import torch
from models import (
    ARCHITECTURES,
    PROMPT,
    Prompts,
    assert_equals_reference,
    build_model,
    make_selector,
    one_thread,  # noqa: F401
    prompts,
    tiny_model,
    way_in,
)
from transformers import LlamaForCausalLM

from s2t_ext import S2TConfig
from s2t_ext.decoding.candidate_attention import (
    ATTENTION_NAME,
    CandidateLayout,
    attend,
    attention_configs,
    candidate_attention,
)
from s2t_ext.decoding.candidate_cache import candidate_cache
from s2t_ext.decoding.candidate_step import CandidateContext
from s2t_ext.decoding.logits_head import PostProcessing, find_logits_head
from s2t_ext.decoding.self_test import attach
from s2t_ext.decoding.tree_step import TreeStep

CPU = torch.device("cpu")
TREES = [name for name, a in ARCHITECTURES.items() if a.step_mode == "tree"]


def drawn(picture: str) -> torch.Tensor:
    """Bool [queries, keys] from lines of x and . characters."""
    return torch.tensor([[c == "x" for c in line.split()[0]] for line in picture.split()])


# ---- layouts -------------------------------------------------------------------------------------


def test_candidates_see_the_prefix_and_themselves():
    allowed = CandidateLayout(3).allowed(5, None, 1, CPU)
    assert torch.equal(allowed[0, 0], drawn("xxx.. xx.x. xx..x"))


def test_pending_tokens_are_causal():
    allowed = CandidateLayout(2, num_pending=3).allowed(7, None, 1, CPU)
    assert torch.equal(allowed[0, 0], drawn("xxx.... xxxx... xxxxx.. xxxxxx. xxxxx.x"))


def test_all_candidates_stand_at_the_same_position_in_a_window():
    """The window of 3 counts the token itself: two tokens before it, whatever its slot."""
    allowed = CandidateLayout(3).allowed(7, 3, 1, CPU)
    assert torch.equal(allowed[0, 0], drawn("..xxx.. ..xx.x. ..xx..x"))
    allowed = CandidateLayout(2, num_pending=2).allowed(6, 3, 1, CPU)
    assert torch.equal(allowed[0, 0], drawn("xxx... .xxx.. ..xxx. ..xx.x"))


def test_padding_is_seen_by_nobody_but_itself():
    """A row's padding may reach into the pending tokens, whose attention must not be empty."""
    mask = torch.tensor([[0, 0, 1], [0, 0, 0], [1, 1, 1]]).bool()
    allowed = CandidateLayout(2, 1, mask).allowed(5, None, 1, CPU)
    assert torch.equal(allowed[0, 0], drawn("..x.. ..xx. ..x.x"))
    assert torch.equal(allowed[1, 0], drawn("..x.. ...x. ....x"))
    assert torch.equal(allowed[2, 0], drawn("xxx.. xxxx. xxx.x"))


def test_a_mask_longer_than_the_visible_keys_is_read_from_its_end():
    """Sliding layers show fewer keys than there are tokens."""
    mask = torch.tensor([[0, 0, 0, 1, 1]]).bool()
    allowed = CandidateLayout(1, 0, mask).allowed(4, 4, 1, CPU)
    assert torch.equal(allowed[0, 0], drawn(".xxx"))


def test_grouped_queries_repeat_the_rows():
    layout = CandidateLayout(2)
    one, three = layout.allowed(4, None, 1, CPU), layout.allowed(4, None, 3, CPU)
    assert torch.equal(three, one.repeat(1, 1, 3, 1))
    assert layout.allowed(4, None, 3, CPU) is three  # built once


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("has_sinks", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
def test_attend(groups, has_sinks, softcap):
    """Packed groups, soft caps and sinks, against the formula head by head in fp64."""
    batch, kv_heads, queries, keys, size, value_size = 2, 2, 3, 7, 8, 5
    heads = kv_heads * groups
    query = torch.randn(batch, heads, queries, size)
    key = torch.randn(batch, kv_heads, keys, size)
    value = torch.randn(batch, kv_heads, keys, value_size)
    allowed = CandidateLayout(2, 1, torch.tensor([[1] * 5, [0, 0, 1, 1, 1]]).bool()).allowed(
        keys, None, groups, CPU
    )
    sinks = torch.randn(heads) if has_sinks else None
    actual = attend(query, key, value, allowed, 0.3, softcap, sinks)
    assert actual.shape == (batch, queries, heads, value_size) and actual.is_contiguous()
    for h in range(heads):
        scores = 0.3 * query[:, h].double() @ key[:, h // groups].double().transpose(1, 2)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        scores = scores.masked_fill(~allowed[:, 0, :queries], -torch.inf)
        if sinks is not None:
            extra = sinks[h].double().expand(batch, queries, 1)
            weights = torch.cat([scores, extra], dim=-1).softmax(-1)[..., :-1]
        else:
            weights = scores.softmax(-1)
        expected = weights @ value[:, h // groups].double()
        torch.testing.assert_close(actual[:, :, h].double(), expected, atol=1e-6, rtol=1e-5)


# ---- forwards ------------------------------------------------------------------------------------


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
    step = TreeStep(model, find_logits_head(model))
    candidates = torch.tensor([[5, 6, 7, 8], [9, 5, 11, 12], [13, 14, 15, 5]])
    cache = candidate_cache(model.config.get_text_config(decoder=True))
    positions = (torch.cat([mask, mask[:, -1:]], 1).cumsum(-1) - 1).clamp(min=0)
    seen = PROMPT - pending
    if seen:
        inputs = dict(attention_mask=mask[:, :seen], position_ids=positions[:, :seen])
        model(input_ids=ids[:, :seen], past_key_values=cache, **inputs)
    grown = torch.cat([mask, mask[:, -1:]], dim=1)
    context = CandidateContext(cache, ids, pending, grown, positions, {})
    hidden = step.forward(context, candidates, torch.tensor(needed))
    assert hidden.shape[:2] == (3, 4) and hidden.isfinite().all()
    slots = [4 if row else 1 for row in needed]
    assert (step.forward_passes, step.tokens) == (1, 3 * pending + sum(slots))
    slot = torch.tensor([2, 1, 3]) * torch.tensor(needed)
    committed = step.commit(slot)
    assert committed.cache.get_seq_length() == PROMPT + 1
    following = torch.tensor([[21], [22], [23]])
    after = model(
        input_ids=following,
        past_key_values=cache,
        attention_mask=torch.cat([grown, mask[:, -1:]], dim=1),
        position_ids=positions[:, -1:] + 1,
    ).logits[:, -1]
    for b in range(3):
        prefix = ids[b, mask[b].bool()]
        for c in range(slots[b]):
            whole = torch.cat([prefix, candidates[b, c, None]])[None]
            expected, logits = _from_scratch(model, whole)
            torch.testing.assert_close(hidden[b, c], expected, atol=2e-5, rtol=1e-4)
            if c == slot[b]:
                torch.testing.assert_close(committed.hidden[b], expected, atol=2e-5, rtol=1e-4)
                torch.testing.assert_close(committed.logits[b], logits, atol=2e-5, rtol=1e-4)
                _, logits = _from_scratch(model, torch.cat([whole, following[b, None]], dim=1))
                torch.testing.assert_close(after[b], logits, atol=5e-5, rtol=1e-4)


def _from_scratch(model, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    from s2t_ext.reference.decoding import _last_state

    logits, hidden = _last_state(model, ids)
    return hidden[0], logits[0]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_users_own_attention_runs_everywhere_else(implementation):
    """While a candidate forward runs, also another thread's ordinary forwards; afterwards all."""
    model = build_model("gemma3")
    model.set_attn_implementation(implementation)
    ids, mask = prompts(True)
    expected = model(input_ids=ids, attention_mask=mask).logits
    results = []
    configs = attention_configs(model)
    with candidate_attention(configs, CandidateLayout(1)):
        assert {c._attn_implementation for c in configs} == {ATTENTION_NAME}
        thread = threading.Thread(
            target=lambda: results.append(model(input_ids=ids, attention_mask=mask).logits)
        )
        thread.start()
        thread.join()
        with candidate_attention(configs, CandidateLayout(2)):
            pass
        assert {c._attn_implementation for c in configs} == {ATTENTION_NAME}
    assert torch.equal(results[0], expected)
    assert {c._attn_implementation for c in configs} == {implementation}
    with pytest.raises(KeyboardInterrupt), candidate_attention(configs, CandidateLayout(1)):
        raise KeyboardInterrupt
    assert {c._attn_implementation for c in configs} == {implementation}
    assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, expected)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_whatever_attention_the_user_has_the_tokens_are_the_same(implementation):
    model = build_model("mistral_window")
    model.set_attn_implementation(implementation)
    config = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0)
    output = way_in("generate", model, config, make_selector(model), seed=3)(
        input_ids=prompts(True).ids,
        attention_mask=prompts(True).mask,
        max_new_tokens=8,
        return_dict_in_generate=True,
    )
    assert output.s2t.step_mode == "tree"
    assert_equals_reference(
        output.sequences,
        model,
        prompts(True),
        config=config,
        selector=make_selector(model),
        new_tokens=8,
        seed=3,
    )


def test_a_position_bias_is_refused():
    from s2t_ext.decoding.candidate_attention import _active, _candidate_attention

    _active.layout = CandidateLayout(1)
    try:
        with pytest.raises(NotImplementedError) as error:
            _candidate_attention(None, *[torch.zeros(1, 1, 1, 1)] * 3, None, position_bias=1)
    finally:
        _active.layout = None
    assert str(error.value) == "candidate attention: position_bias must be None, got a tensor"


# ---- the self-test -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_self_test(name):
    found = attach(tiny_model(name))
    assert found.tree == (ARCHITECTURES[name].step_mode == "tree")
    assert attach(tiny_model(name)) is found
    reasons = {
        "mamba2": "Mamba2ForCausalLM does not take registered attention implementations",
        "bloom": "BloomForCausalLM does not take registered attention implementations",
    }
    assert found.reason == reasons.get(name, found.reason)
    assert found.ragged == found.tree
    if found.tree:
        assert found.reason == "tree and expanded forwards agree"


def check_expands(model, reason: str) -> None:
    """Falls back, says why, refuses step="tree", and still equals the reference."""
    assert reason in attach(model).reason
    selector, ids = make_selector(model), prompts(False).ids
    config = S2TConfig(k=3, trigger="always", warmup_steps=0)
    output = way_in("generate", model, config, selector)(
        input_ids=ids, max_new_tokens=4, return_dict_in_generate=True
    )
    assert output.s2t.step_mode == "expand" and reason in output.s2t.step_reason
    inputs = Prompts(ids, torch.ones_like(ids))
    assert_equals_reference(
        output.sequences, model, inputs, config=config, selector=selector, new_tokens=4
    )
    config = S2TConfig(k=3, trigger="always", warmup_steps=0, step="tree")
    with pytest.raises(ValueError) as error:
        way_in("generate", model, config, selector)(input_ids=ids, max_new_tokens=4)
    assert str(error.value) == (
        "generate: step must be 'auto' or 'expand' for this model, got 'tree' "
        f"({attach(model).reason})"
    )


def test_a_model_that_ignores_positions_expands():
    """As remote code may: it counts the tokens of its cache instead, one position a candidate."""
    model = build_model("llama")

    def forget_positions(module, arguments, keywords):
        keywords["position_ids"] = None
        return arguments, keywords

    model.model.register_forward_pre_hook(forget_positions, with_kwargs=True)
    check_expands(model, "tree and expanded forwards differ by")


def test_a_model_that_cannot_run_several_tokens_at_a_position_expands():
    model = build_model("llama")

    def refuse(module, arguments, keywords):
        positions = keywords.get("position_ids")
        if positions is not None and positions.shape[-1] > 1:
            if bool((positions[..., 1:] == positions[..., :-1]).any(-1).all()):
                raise KeyError("positions")

    model.model.register_forward_pre_hook(refuse, with_kwargs=True)
    check_expands(model, "the tree forward raised KeyError: 'positions'")


def test_a_model_that_knows_its_batch_keeps_its_rows_apart():
    """As remote code may: tree steps are exact, but not with the rows laid side by side."""
    model = build_model("llama")

    def insist(module, arguments, keywords):
        positions = keywords.get("position_ids")
        assert positions is None or positions.shape[0] > 1

    model.model.register_forward_pre_hook(insist, with_kwargs=True)
    found = attach(model)
    assert found.tree and not found.ragged
    arguments = dict(input_ids=prompts(False).ids, max_new_tokens=6, seed=3)
    config = S2TConfig(k=3, trigger="random", threshold=0.5, warmup_steps=0)
    selector = make_selector(model)
    actual = way_in("generate", model, config, selector)(**arguments)
    expected = way_in("generate", tiny_model("llama"), config, selector)(**arguments)
    assert torch.equal(actual, expected)


def test_a_model_that_generate_gives_no_positions_expands():
    """Its forward does not name them, so transformers leaves them to the model."""

    class Taciturn(LlamaForCausalLM):
        def forward(self, *arguments, **options):
            return super().forward(*arguments, **options)

    model = build_model("llama")
    model.__class__ = Taciturn
    assert attach(model).tree
    arguments = dict(input_ids=prompts(False).ids, max_new_tokens=4)
    config = S2TConfig(k=3, trigger="always", warmup_steps=0)
    selector = make_selector(model)
    output = way_in("generate", model, config, selector)(**arguments, return_dict_in_generate=True)
    assert output.s2t.step_reason == "Taciturn is given no position_ids"
    named = way_in("generate", tiny_model("llama"), config, selector)(**arguments)
    assert torch.equal(output.sequences, named)
    config = S2TConfig(k=3, trigger="always", warmup_steps=0, step="tree")
    with pytest.raises(ValueError) as error:
        way_in("generate", model, config, selector)(**arguments)
    assert str(error.value) == (
        "generate: position_ids must be an argument of the model's forward for step='tree', got "
        "none in Taciturn"
    )


def test_layers_that_hold_no_alternatives_expand():
    found = attach(tiny_model("qwen3_next"))
    assert "linear_attention" in found.reason or "registered" in found.reason


def test_leaving_training_mode_tests_again():
    """Dropout makes tree and expanded forwards differ."""
    model = build_model("gpt2").train()
    assert not attach(model).tree
    assert attach(model.eval()).tree


# ---- the head ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "post"),
    [
        ("llama", PostProcessing()),
        ("granite", PostProcessing(scale=1 / 3)),
        ("cohere2", PostProcessing(scale=0.3)),
        ("gemma2", PostProcessing(softcap=30.0)),
        ("falcon_h1", PostProcessing(scale=0.5)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_post_processing_of_the_head_is_found(name, post, dtype):
    """Also where the cap changes the logits by less than a low precision would excuse."""
    model = build_model(name).to(dtype)
    head = find_logits_head(model)
    assert head.post == post and head.body is model.base_model


def test_a_head_with_post_processing_unknown_runs_the_whole_model():
    """Its logits are taken from the model itself, then, at the candidates' positions."""

    class Odd(LlamaForCausalLM):
        def forward(self, input_ids=None, attention_mask=None, position_ids=None, **options):
            inputs = dict(attention_mask=attention_mask, position_ids=position_ids)
            output = super().forward(input_ids, **inputs, **options)
            output.logits = output.logits.sinh()
            return output

    model = build_model("llama")
    model.__class__ = Odd
    assert find_logits_head(model).body is None
    selector, inputs = make_selector(model), prompts(True)
    config = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0)
    output = way_in("generate", model, config, selector, seed=3)(
        input_ids=inputs.ids,
        attention_mask=inputs.mask,
        max_new_tokens=8,
        return_dict_in_generate=True,
    )
    assert output.s2t.step_mode == "tree"
    assert_equals_reference(
        output.sequences, model, inputs, config=config, selector=selector, new_tokens=8, seed=3
    )


# ---- threads -------------------------------------------------------------------------------------


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
