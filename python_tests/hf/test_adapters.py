"""Adapters: which of them acts on which token, row and thread."""

import copy
import pickle
import threading

import pytest
import torch
from models import add_adapter, build_model, make_selector, prompts, tiny_model, way_in
from peft import LoraConfig, get_peft_model

import s2t_ext
from s2t_ext import S2TConfig
from s2t_ext.hf.adapters import AdapterSwitch, adapter_layers
from s2t_ext.hf.unwrapping import unwrap_model

ALWAYS = S2TConfig(k=4, trigger="always", warmup_steps=0)
BASE = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0, proposer="base")


def shaken(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


def lora(**options):
    return LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], r=4, **options)


def decode(model, ids, config=ALWAYS, **options):
    selector = make_selector(tiny_model("llama"))
    arguments = dict(input_ids=ids, attention_mask=torch.ones_like(ids), eos_token_id=None)
    return way_in("generate", model, config, selector, seed=3)(
        **arguments, max_new_tokens=8, **options
    )


# ---- per row, per token --------------------------------------------------------------------------


@pytest.mark.parametrize("trigger", ["always", "random", "never"])
def test_one_adapter_per_row(trigger):
    """As with each row alone under its own adapter; "__base__" is none."""
    model = get_peft_model(build_model("llama"), lora())
    model.add_adapter("other", lora())
    shaken(model)
    names = ["default", "__base__", "other"]
    ids = torch.randint(3, 97, (3, 9), generator=torch.Generator().manual_seed(1))
    config = S2TConfig(k=4, trigger=trigger, threshold=0.5, warmup_steps=0)
    together = decode(model, ids, config, adapter_names=names)
    for row, name in enumerate(names):
        if name == "__base__":
            with model.disable_adapter():
                alone = alone_with_seed(model, ids[row : row + 1], config, row)
        else:
            model.set_adapter(name)
            alone = alone_with_seed(model, ids[row : row + 1], config, row)
        assert torch.equal(together[row], alone[0]), name


def alone_with_seed(model, ids, config, row):
    selector = make_selector(tiny_model("llama"))
    return way_in("generate", model, config, selector, seed=3 + row)(
        input_ids=ids, attention_mask=torch.ones_like(ids), eos_token_id=None, max_new_tokens=8
    )


def test_an_activated_adapter():
    """Active from a token of the prompt on, in some rows; every choice is that of the whole."""
    model = shaken(get_peft_model(build_model("llama"), lora(alora_invocation_tokens=[5])))
    ids = torch.randint(6, 97, (4, 9), generator=torch.Generator().manual_seed(1))
    ids[:3, 8], ids[1, 8], ids[1, 6] = 5, 7, 5
    selector = make_selector(tiny_model("llama"))
    output = decode(model, ids, suppress_tokens=[5])  # PEFT looks for it in the prompt only
    seen = {}
    head = unwrap_model(model).lm_head
    handle = head.register_forward_hook(lambda m, a, y: seen.update(hidden=a[0][:, -1]))
    for row in output:
        for end in range(9, 17):
            with torch.no_grad():
                logits = model(input_ids=row[None, :end]).logits[0, -1]
                logits[5] = -torch.inf
                best = logits.topk(4).indices
                longer = torch.cat([row[:end].expand(4, -1), best[:, None]], dim=1)
                model(input_ids=longer)
            assert int(row[end]) == int(best[selector.score(seen["hidden"]).argmax()])
    handle.remove()


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_learned_prompts(kind):
    """They replace a method of the model during `generate`; it was found fit without them."""
    import peft

    plain = build_model("llama")
    expected = decode(plain, prompts(False).ids)
    config = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = get_peft_model(plain, config).eval()
    with torch.no_grad():
        for parameter in model.prompt_encoder.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    options = dict(eos_token_id=None, do_sample=False, max_new_tokens=8)
    one = S2TConfig(k=1, trigger="always", warmup_steps=0)
    ids = prompts(False).ids
    own = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
    assert torch.equal(decode(model, ids, one, do_sample=False), own)
    expand = S2TConfig(k=4, trigger="always", warmup_steps=0, step="expand")
    assert torch.equal(decode(model, ids), decode(model, ids, expand))
    assert torch.equal(decode(plain, ids), expected)


def tasks(kind):
    """A Llama with weights, or a learned prompt, for each of three tasks."""
    import peft

    options = dict(task_type="CAUSAL_LM", num_tasks=3, num_virtual_tokens=3)
    if kind == "Poly":
        layers = dict(target_modules=["q_proj", "v_proj"], r=4, n_skills=2, n_splits=1)
        options = dict(task_type="CAUSAL_LM", n_tasks=3, init_weights=False, **layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = get_peft_model(build_model("llama"), getattr(peft, f"{kind}Config")(**options))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "module_logits" in name or "prefix_task" in name:
                    parameter.normal_(std=5.0)
                if "poly_lora" in name:
                    parameter.mul_(5.0)
    return model.eval()


@pytest.mark.parametrize("trigger", ["always", "random", "never"])
@pytest.mark.parametrize("kind", ["Poly", "MultitaskPromptTuning"])
def test_one_task_per_row(kind, trigger):
    """As with each row alone."""
    model, given = tasks(kind), torch.tensor([2, 0, 1])
    ids = torch.randint(3, 97, (1, 9), generator=torch.Generator().manual_seed(1)).repeat(3, 1)
    config = S2TConfig(k=4, trigger=trigger, threshold=0.5, warmup_steps=0)
    together = decode(model, ids, config, task_ids=given)
    assert len({tuple(row) for row in together.tolist()}) == 3
    for row in range(3):
        selector = make_selector(tiny_model("llama"))
        alone = way_in("generate", model, config, selector, seed=3 + row)(
            input_ids=ids[:1],
            attention_mask=torch.ones_like(ids[:1]),
            eos_token_id=None,
            max_new_tokens=8,
            task_ids=given[row : row + 1],
        )
        assert torch.equal(together[row], alone[0])


def test_what_cannot_follow_rows_is_refused():
    model = shaken(get_peft_model(build_model("llama"), lora()))
    ids = prompts(False).ids
    with pytest.raises(ValueError, match="proposer must be 'adapted' where adapters differ"):
        decode(model, ids, BASE, adapter_names=["default", "__base__"])
    tree = S2TConfig(k=4, trigger="always", warmup_steps=0, step="tree")
    with pytest.raises(ValueError, match="differ from row to row"):
        decode(model, ids, tree, adapter_names=["default", "__base__"])


# ---- per thread ----------------------------------------------------------------------------------


def test_threads_with_a_base_proposer_and_without():
    """Beside each other on one model: three base proposers, a plain `generate`, a local choice."""
    model = add_adapter(build_model("llama"))
    rows = [prompts(False, seed).ids for seed in range(3)]
    works = [lambda ids=ids: decode(model, ids, BASE) for ids in rows]
    works.append(lambda: decode(model, rows[0], ALWAYS))
    works.append(lambda: model.generate(input_ids=rows[1], max_new_tokens=8, eos_token_id=None))
    expected = [work() for work in works]
    wrong = []

    def repeat(i):
        wrong.extend(i for _ in range(6) if not torch.equal(works[i](), expected[i]))

    threads = [threading.Thread(target=repeat, args=(i,)) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert all(type(vars(x)["_disable_adapters"]) is bool for x in adapter_layers(model))


def test_a_switch_acts_on_its_own_thread():
    model = add_adapter(build_model("llama"))
    switch, layer = AdapterSwitch(model), adapter_layers(model)[0]
    seen = []
    with switch.off():
        assert layer.disable_adapters
        with switch.on():
            assert not layer.disable_adapters
        assert layer.disable_adapters
        for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert copied.disable_adapters is False
        other = threading.Thread(target=lambda: seen.append(bool(layer.disable_adapters)))
        other.start()
        other.join()
    assert seen == [False] and layer.disable_adapters is False


def test_a_switch_of_others_is_noticed():
    model = add_adapter(build_model("llama"))
    with pytest.raises(RuntimeError, match="must not be switched by others"):
        with AdapterSwitch(model).off():
            model.base_model.enable_adapter_layers()
    assert all(x.disable_adapters is False for x in adapter_layers(model))


# ---- the selector's own --------------------------------------------------------------------------


def selector_with_adapter(folder):
    model = add_adapter(build_model("llama"))
    selector = make_selector(tiny_model("llama"))
    selector.adapted_model = model
    selector.save_pretrained(folder)
    return s2t_ext.Selector.from_pretrained(folder, build_model("llama"))


def test_a_selector_needs_its_adapter(tmp_path):
    """On the model it was loaded for, or on one that holds the same; not disabled, not another."""
    selector = selector_with_adapter(tmp_path)
    adapted, arguments = selector.adapted_model, dict(input_ids=prompts(False).ids)
    arguments |= dict(max_new_tokens=4)
    expected = way_in("generate", adapted, ALWAYS, selector)(**arguments)
    twin = s2t_ext.Selector.from_pretrained(tmp_path, build_model("llama")).adapted_model
    for model in (adapted, adapted.get_base_model(), twin):
        assert torch.equal(way_in("generate", model, ALWAYS, selector)(**arguments), expected)
    other = add_adapter(build_model("llama"), seed=4)
    for model in (build_model("llama"), other):
        with pytest.raises(ValueError, match="model must hold the adapter of the selector"):
            way_in("generate", model, ALWAYS, selector)(**arguments)
    with adapted.disable_adapter():
        with pytest.raises(ValueError, match="model must hold the adapter of the selector"):
            way_in("generate", adapted, ALWAYS, selector)(**arguments)
    merged = selector.merge()
    assert torch.equal(way_in("generate", merged, ALWAYS, selector)(**arguments), expected)


# ---- an adapter that chooses ---------------------------------------------------------------------


def test_the_student_s_adapter_is_its_teacher():
    """One copy of the weights chooses as two do, and leaves the adapter as it was."""
    adapted = shaken(get_peft_model(build_model("llama"), lora()))
    separate = s2t_ext.Teacher.from_model(copy.deepcopy(adapted))
    shared = s2t_ext.Teacher.from_model(adapted)
    ids = torch.randint(3, 97, (3, 9), generator=torch.Generator().manual_seed(1))
    arguments = dict(attention_mask=torch.ones_like(ids), eos_token_id=None, max_new_tokens=12)
    config = S2TConfig(
        k=4, trigger="random", threshold=0.5, warmup_steps=0, select="teacher", proposer="base"
    )

    def choose(model, teacher):
        return s2t_ext.generate(model, ids, **arguments, s2t=config, teacher=teacher, seed=3)

    expected = choose(build_model("llama"), separate)
    assert torch.equal(choose(adapted, shared), expected)
    never = S2TConfig(trigger="never", proposer="base")
    assert not torch.equal(s2t_ext.generate(adapted, ids, **arguments, s2t=never), expected)
    plain = adapted.generate(input_ids=ids, do_sample=False, **arguments)
    assert torch.equal(separate.model.generate(ids, do_sample=False, **arguments), plain)
