"""Models are asked by their modules: heads and embeddings that are offloaded, packed, or unnamed,
of students and of teachers.
"""

import accelerate
import pytest
import torch
import transformers
from models import build_model, make_selector, prompts, tiny_model, way_in
from torch import nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from s2t_ext import S2TConfig, Selector, Teacher
from s2t_ext.hf.identity import describe_base_model, vocabulary_size
from s2t_ext.hf.logits_head import find_logits_head

ALWAYS = S2TConfig(k=4, trigger="always", warmup_steps=0)
EXPAND = S2TConfig(k=4, trigger="always", warmup_steps=0, step="expand")
S2T = S2TConfig(k=4, trigger="always", warmup_steps=0, select="teacher")
NEVER = S2TConfig(trigger="never")


class Packed(nn.Module):
    """A quantised layer as several packages have it: no `weight`, perhaps no sizes."""

    def __init__(self, linear, names_its_size=True):
        super().__init__()
        if names_its_size:
            self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("qweight", linear.weight.detach().clone())

    def forward(self, x):
        return nn.functional.linear(x, self.qweight)


class PackedLinear(nn.Linear):
    """Another's: a linear layer whose weight is a row of bytes."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight = nn.Parameter(torch.zeros(7, 1, dtype=torch.uint8), requires_grad=False)
        self.register_buffer("packed", linear.weight.detach().clone())

    def forward(self, x):
        return nn.functional.linear(x, self.packed)


class PackedEmbedding(nn.Module):
    def __init__(self, embedding):
        super().__init__()
        self.register_buffer("table", embedding.weight.detach().clone())

    def forward(self, ids):
        return nn.functional.embedding(ids, self.table)


def packed_head(model):
    model.lm_head = Packed(model.lm_head)


def packed_head_without_sizes(model):
    model.lm_head = Packed(model.lm_head, names_its_size=False)


def packed_linear_head(model):
    model.lm_head = PackedLinear(model.lm_head)


def packed_embedding(model):
    model.model.embed_tokens = PackedEmbedding(model.model.embed_tokens)


def offloaded(model):
    accelerate.cpu_offload(model, execution_device="cpu")


def dispatched(model):
    accelerate.dispatch_model(
        model, {"model": "cpu", "lm_head": "disk"}, main_device="cpu", offload_dir=dispatched.folder
    )


KINDS = [
    packed_head,
    packed_head_without_sizes,
    packed_linear_head,
    packed_embedding,
    offloaded,
    dispatched,
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def changed(request, tmp_path):
    """A model whose logits are Llama's, by modules of another kind."""
    dispatched.folder = tmp_path
    model = build_model("llama")
    request.param(model)
    return model


def run(model, config, teacher=None, **options):
    selector = make_selector(tiny_model("llama")) if config.select == "local" else None
    generate = way_in("generate", model, config, selector, teacher=teacher)
    return generate(input_ids=prompts(False).ids, max_new_tokens=6, **options)


@pytest.mark.parametrize("config", [ALWAYS, EXPAND, NEVER], ids=["tree", "expand", "never"])
def test_a_student(changed, config):
    assert torch.equal(run(changed, config), run(tiny_model("llama"), config))


def test_a_teacher(changed):
    student = build_model("llama", seed=3)
    expected = run(student, S2T, Teacher.from_model(tiny_model("llama")))
    teacher = Teacher.from_model(changed)
    assert torch.equal(run(student, S2T, teacher), expected)
    ids = prompts(False).ids[0]
    support = torch.arange(4).expand(6, 4).contiguous(), torch.zeros(6, 4)
    plain = Teacher.from_model(tiny_model("llama")).label_trajectory(ids, 3, *support)
    labels = teacher.label_trajectory(ids, 3, *support)
    torch.testing.assert_close(labels.kl, plain.kl)


def test_rows_and_sizes(changed):
    plain = tiny_model("llama")
    assert vocabulary_size(changed) == 97
    assert find_logits_head(changed).body is not None
    rows = Selector.from_reserved_rows(changed, [1, 2]).rows
    torch.testing.assert_close(rows, plain.lm_head.weight[[1, 2]].detach(), atol=1e-4, rtol=1e-4)
    print_of = describe_base_model(changed)["fingerprint"]
    assert print_of in (None, describe_base_model(plain)["fingerprint"])
    Selector(rows, base_model=describe_base_model(plain)).check_fits(changed)


def test_a_fingerprint_follows_the_weights():
    """Read once, and again when another embedding or other numbers have come."""
    model = build_model("llama")
    first = describe_base_model(model)["fingerprint"]
    reads = []
    weight = model.get_input_embeddings().weight

    class Counts(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            reads.append(function)
            return function(*args, **(kwargs or {}))

    with Counts():
        assert describe_base_model(model)["fingerprint"] == first
    assert torch.Tensor.cpu not in reads
    other = build_model("llama", seed=1).state_dict()
    model.load_state_dict(other)
    second = describe_base_model(model)["fingerprint"]
    assert second != first
    with torch.no_grad():
        weight.add_(1.0)
    assert describe_base_model(model)["fingerprint"] not in (first, second)


class RemoteConfig(transformers.PretrainedConfig):
    model_type = "remote_of_mine"

    def __init__(self, **options):
        self.vocab_size, self.hidden_size, self.num_hidden_layers = 97, 32, 1
        super().__init__(**options)


class Remote(transformers.PreTrainedModel, transformers.GenerationMixin):
    """Names of its own for embedding and head, no cache, no positions."""

    config_class = RemoteConfig

    def __init__(self, config):
        super().__init__(config)
        self.emb, self.out = nn.Embedding(97, 32), nn.Linear(32, 97)
        self.rnn = nn.GRU(32, 32, batch_first=True)
        self.post_init()

    def prepare_inputs_for_generation(self, input_ids, **options):
        return {"input_ids": input_ids}

    def forward(self, input_ids=None, attention_mask=None, **options):
        return CausalLMOutputWithPast(logits=self.out(self.rnn(self.emb(input_ids))[0]))


def test_remote_code_with_names_of_its_own():
    torch.manual_seed(0)
    model = Remote(RemoteConfig()).eval()
    ids = prompts(False).ids
    arguments = dict(input_ids=ids, max_new_tokens=5, do_sample=False, pad_token_id=0)
    head = find_logits_head(model)
    assert head.module is model.out and head.body is None
    never = way_in("generate", model, NEVER)
    assert torch.equal(never(**arguments), model.generate(**arguments))
    selector = Selector(torch.randn(16, 32, generator=torch.Generator().manual_seed(5)))
    output = way_in("generate", model, ALWAYS, selector)(**arguments, eos_token_id=None)
    for row in output:
        for end in range(9, 14):
            with torch.no_grad():
                best = model(row[None, :end]).logits[0, -1].topk(4).indices
                longer = torch.cat([row[:end].expand(4, -1), best[:, None]], dim=1)
                states = model.rnn(model.emb(longer))[0][:, -1]
            assert int(row[end]) == int(best[selector.score(states).argmax()])


STATES_OF_THEIR_OWN = {
    "xlstm": lambda: transformers.xLSTMConfig(
        vocab_size=97, hidden_size=128, num_heads=2, num_blocks=2, chunk_size=16
    ),
    "rwkv": lambda: transformers.RwkvConfig(
        vocab_size=97, hidden_size=32, attention_hidden_size=32, num_hidden_layers=2
    ),
    "minimax": lambda: transformers.MiniMaxConfig(  # beside the layers of its cache
        vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=2, block_size=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_local_experts=4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STATES_OF_THEIR_OWN)
def test_states_that_are_no_cache(name):
    """Decoded as transformers does where no choice can be made, else refused in words."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(STATES_OF_THEIR_OWN[name]()).eval()
    arguments = dict(input_ids=prompts(False).ids[:1], max_new_tokens=4, do_sample=False)
    arguments |= dict(pad_token_id=0, eos_token_id=None)
    expected = model.generate(**arguments)
    assert torch.equal(way_in("generate", model, NEVER)(**arguments), expected)
    selector = Selector(torch.randn(16, model.config.hidden_size))
    rule = "its (whole )?state in (a Cache of transformers|the layers of its cache) where choices"
    with pytest.raises(ValueError, match=f"^generate: model must keep {rule} are made, got "):
        way_in("generate", model, ALWAYS, selector)(**arguments)
