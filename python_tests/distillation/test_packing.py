"""Packed and unpacked training: the same loss and gradients (fp64), on several architectures."""

import functools
import random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma4TextConfig,
    GPT2Config,
    LlamaConfig,
    Qwen2Config,
)
from unpacked_objective import unpacked_objective

from s2t_ext.distillation.groups import Group, Trajectory, batches_by_length, packed_length
from s2t_ext.distillation.losses import LossConfig
from s2t_ext.distillation.objective import Counts, ObjectiveMaker
from s2t_ext.distillation.packing import PackedModel, pack
from s2t_ext.distillation.score_head import ScoreHead

VOCAB = 61
SIZES = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    # Alternating layers see a window of 5 tokens; logits and attention scores are soft-capped.
    "gemma2": Gemma2Config(**SIZES, head_dim=8, sliding_window=5, attn_implementation="eager"),
    # The upper half of the layers has no keys and values of its own.
    "gemma4": Gemma4TextConfig(
        **{**SIZES, "num_hidden_layers": 4},
        head_dim=8,
        global_head_dim=16,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention"] * 2,
        num_kv_shared_layers=2,
        vocab_size_per_layer_input=VOCAB,
        hidden_size_per_layer_input=8,
        attn_implementation="eager",
    ),
    "gpt2": GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64),
}


#: Gemma's norms and its attention's softmax are computed in fp32 whatever the model's dtype.
TOLERANCES = dict.fromkeys(("gemma2", "gemma4"), dict(rtol=1e-4, atol=1e-5))


def make_model(name):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).double()
    for parameter in model.parameters():  # an untrained model attends evenly: make it take sides
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    for module in model.modules():
        if type(module).__name__ in ("LlamaRMSNorm", "Qwen2RMSNorm"):
            # transformers computes these in fp32 whatever the dtype; the test wants fp64.
            module.forward = functools.partial(
                torch.rms_norm, normalized_shape=(32,), weight=module.weight, eps=1e-6
            )
    return model.eval()


def with_lora(model):
    names = ["c_attn", "c_proj", "c_fc"] if model.config.model_type == "gpt2" else "all-linear"
    adapted = get_peft_model(model, LoraConfig(r=3, target_modules=names, lora_dropout=0.0))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:  # B starts at 0: then the adapter would do nothing
            torch.nn.init.normal_(parameter, std=0.1)
    return adapted.double()


def make_trajectories(seed, sizes=((3, 9, (0, 2, 8)), (7, 5, (1, 4)), (1, 12, (11, 12)))):
    """(prompt tokens, response tokens, steps): ragged in all three and in the candidates."""
    rng = random.Random(seed)
    trajectories = []
    for number, (prompt, response, steps) in enumerate(sizes):
        groups = []
        for step in steps:
            k = rng.randint(1, 5)
            probs = [rng.random() for _ in range(k)]
            logprobs = sorted((-3 * rng.random() for _ in range(k)), reverse=True)
            ids = rng.sample(range(VOCAB), k)
            groups.append(Group(step, tuple(ids), tuple(logprobs), tuple(probs), rng.random()))
        trajectories.append(
            Trajectory(
                str(number),
                tuple(rng.randrange(VOCAB) for _ in range(prompt)),
                tuple(rng.randrange(VOCAB) for _ in range(response)),
                tuple(groups),
                tuple(rng.random() for _ in range(response)),
                tuple(rng.random() for _ in range(response)),
            )
        )
    return trajectories


def gradients(model, head, loss):
    parameters = [*model.named_parameters(), *head.named_parameters()]
    trained = [(n, p) for n, p in parameters if p.requires_grad]
    found = torch.autograd.grad(loss, [p for _, p in trained], allow_unused=True)
    return {n: g for (n, _), g in zip(trained, found, strict=True) if g is not None}


@pytest.mark.parametrize("kind", ["top1", "kl", "pairwise"])
@pytest.mark.parametrize("name", CONFIGS)
def test_packed_equals_unpacked(name, kind):
    model = with_lora(make_model(name))
    config = LossConfig(kind, base_kl_weight=0.3, teacher_margin_weighting=kind == "kl")
    maker = make_maker(model, config, reserved_ids=(3, 17))
    trajectories = make_trajectories(seed=5)
    counts = Counts.of(trajectories)

    packed = maker.packed_objective(pack(trajectories), counts)
    unpacked = unpacked_objective(maker, trajectories, counts)

    tolerance = TOLERANCES.get(name, dict(rtol=1e-9, atol=1e-11))
    assert packed.base_kl.item() > 1e-3 and packed.trigger.item() > 1e-3
    for term in ("groups", "base_kl", "trigger"):
        torch.testing.assert_close(getattr(packed, term), getattr(unpacked, term), **tolerance)
    actual = gradients(model, maker.head, packed.total)
    expected = gradients(model, maker.head, unpacked.total)
    assert actual.keys() == expected.keys()
    assert any("lora_" in n for n in actual) and {"rows", "bias", "prior_weight"} <= actual.keys()
    for parameter, gradient in expected.items():
        difference = (actual[parameter] - gradient).abs().max().item()
        allowed = tolerance["atol"] + tolerance["rtol"] * gradient.abs().max().item()
        assert difference <= allowed, f"{parameter}: off by {difference}"


def make_maker(model, config, **options):
    post = PackedModel(model).head.post
    head = ScoreHead(32, 5, post=post, prior_weight=0.2, dtype=torch.float64)
    torch.nn.init.normal_(head.trigger_weight, std=0.1)
    torch.nn.init.normal_(head.rows, std=0.3)
    return ObjectiveMaker(model, head, config, trigger_threshold=0.5, **options)


def test_full_fine_tuning_against_a_frozen_copy():
    model, base = make_model("llama"), make_model("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    maker = make_maker(model, LossConfig(), base=base)
    trajectories = make_trajectories(seed=6)
    counts = Counts.of(trajectories)
    packed = maker.packed_objective(pack(trajectories), counts)
    unpacked = unpacked_objective(maker, trajectories, counts)
    assert packed.base_kl.item() > 1e-4
    torch.testing.assert_close(packed.total, unpacked.total)
    expected = gradients(model, maker.head, unpacked.total)
    for parameter, gradient in gradients(model, maker.head, packed.total).items():
        torch.testing.assert_close(gradient, expected[parameter])


@pytest.mark.parametrize("head_is_trained", [False, True])
@pytest.mark.parametrize("name", ["llama", "gemma2"])  # gemma2 caps its logits
def test_the_base_term_is_its_formula(monkeypatch, name, head_is_trained):
    """Taken in pieces, with the gradient at once or by recomputation, beside the plain formula."""
    monkeypatch.setattr("s2t_ext.distillation.token_terms.LOGIT_ROWS", 4)
    model = with_lora(make_model(name))
    model.get_output_embeddings().requires_grad_(head_is_trained)
    maker = make_maker(model, LossConfig(base_kl_weight=0.3))
    (trajectory,) = make_trajectories(seed=11)[2:]
    tokens = trajectory.prompt + trajectory.response
    ids = torch.tensor([tokens[: trajectory.prefix_length]])
    counts = Counts.of([trajectory])

    term = 2 * maker.packed_objective(pack([trajectory]), counts).base_kl
    with model.disable_adapter(), torch.no_grad():
        log_p = model(ids).logits[0].log_softmax(dim=1)
    log_q = model(ids).logits[0].log_softmax(dim=1)
    expected = 2 * 0.3 * (log_p.exp() * (log_p - log_q)).sum() / counts.prefix_tokens

    tolerance = TOLERANCES.get(name, dict(rtol=1e-9, atol=1e-11))
    torch.testing.assert_close(term, expected, **tolerance)
    actual, wanted = (gradients(model, maker.head, loss) for loss in (term, expected))
    assert actual.keys() == wanted.keys() and len(actual) > 8
    assert any("lm_head" in n or "embed_tokens" in n for n in actual) == head_is_trained
    for parameter, gradient in wanted.items():
        torch.testing.assert_close(actual[parameter], gradient, **tolerance)


def test_batching_changes_nothing():
    """A row's states do not depend on what it is batched and padded with."""
    model = PackedModel(make_model("gemma2"))
    trajectories = make_trajectories(seed=7)
    together = pack(trajectories)
    states = together.candidate_states(model.hidden_states(together))
    row = 0
    for trajectory in trajectories:
        alone = pack([trajectory])
        expected = alone.candidate_states(model.hidden_states(alone))
        for group in range(len(alone.group_row)):
            mask = alone.candidate_mask[group]
            actual = states[row, : len(mask)][mask]
            torch.testing.assert_close(actual, expected[group][mask], **TOLERANCES["gemma2"])
            row += 1


def test_ordinary_forwards_are_untouched():
    model = make_model("llama")
    ids = torch.randint(VOCAB, (2, 9))
    before = model(ids).logits
    packed = PackedModel(model)
    packed.hidden_states(pack(make_trajectories(seed=8)))
    assert torch.equal(model(ids).logits, before)


def test_a_trajectory_without_groups_or_labels():
    trajectory = Trajectory("0", (1, 2), (3,), ())
    batch = pack([trajectory, *make_trajectories(seed=9)])
    assert len(batch.group_row) == 7 and not batch.layout.visible[0, 2:].any()
    maker = make_maker(with_lora(make_model("llama")), LossConfig())
    objective = maker.packed_objective(pack([trajectory]), Counts.of([trajectory]))
    assert torch.isfinite(objective.total)


def test_batches_by_length_keep_everything_once():
    trajectories = [Trajectory(str(i), (1,) * (1 + i * 7 % 50), (2,), ()) for i in range(100)]
    order = list(range(100))
    random.Random(0).shuffle(order)
    batches = batches_by_length(trajectories, 4, order)
    assert sorted(t.key for b in batches for t in b) == sorted(t.key for t in trajectories)
    spread = max(max(map(packed_length, b)) - min(map(packed_length, b)) for b in batches)
    assert spread < 20
    assert batches == batches_by_length(trajectories, 4, order)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(candidates=(1, 1)), "candidates must differ"),
        (dict(candidates=()), "candidates must hold at least one id"),
        (dict(teacher_probs=(0.5,)), "teacher_probs must have one entry per candidate"),
        (dict(step=-1), "step must be at least 0"),
    ],
)
def test_group_errors(change, message):
    good = dict(step=0, candidates=(1, 2), student_logprobs=(-1.0, -2.0), teacher_probs=(0.5, 0.2))
    with pytest.raises(ValueError, match=message):
        Group(**{**good, **change})


def test_trajectory_errors():
    group = Group(4, (1,), (-1.0,), (0.5,))
    with pytest.raises(ValueError, match="groups must lie within the response"):
        Trajectory("a", (1,), (2, 3), (group,))
    with pytest.raises(ValueError, match="prompt must hold at least one token"):
        Trajectory("a", (), (2, 3), ())
    with pytest.raises(ValueError, match="pack: trajectories must hold at least one"):
        pack([])


def test_a_trajectory_survives_json():
    for trajectory in make_trajectories(seed=3):
        assert Trajectory.from_dict(trajectory.to_dict()) == trajectory
