"""What we touch of vLLM. With another release this says first, and by name, what has changed."""

import importlib
import inspect

import pytest

pytestmark = pytest.mark.vllm

V2 = "vllm.v1.worker.gpu"
#: Where -> what -> its arguments, in order; more may follow.
SIGNATURES = {
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner": {
        "initialize_kv_cache": ["self", "kv_cache_config", "is_profiling"],
        "sample_tokens": ["self", "grammar_output"],
    },
    "vllm.v1.sample.sampler:Sampler": {
        "apply_logits_processors": ["self", "logits", "sampling_metadata", "predict_bonus_token"],
    },
    f"{V2}.model_runner:GPUModelRunner": {
        "initialize_kv_cache": ["self", "kv_cache_config", "is_profiling"],
        "gather_batch_req_state": ["self", "scheduler_output", "dummy_run"],
        "prepare_inputs": ["self", "scheduler_output", "batch_req_state", "batch_desc"],
        "prepare_attn": ["self", "input_batch"],
        "sample": ["self", "hidden_states", "input_batch", "grammar_output"],
        "sample_tokens": ["self", "grammar_output"],
        "_remove_request": ["self", "req_id"],
    },
    "vllm.v1.worker.gpu_worker:Worker": {
        "__init__": ["self", "vllm_config"],
        "init_device": ["self"],
        "load_model": ["self"],
        "determine_available_memory": ["self"],
    },
    "vllm.v1.engine.async_llm:AsyncLLM": {
        "generate": ["self", "prompt", "sampling_params", "request_id"],
        "collective_rpc": ["self", "method", "timeout", "args"],
    },
    "vllm.renderers.base:BaseRenderer": {"get_tokenizer": ["self"], "get_eos_token_id": ["self"]},
    "vllm.config.model:ModelConfig": {"try_get_generation_config": ["self"]},
    "vllm.v1.worker.utils:AttentionGroup": {
        "build_metadata": ["self", "common_attn_metadata"],
    },
    "vllm.v1.worker.gpu.sample.logits_processor:LogitsProcessor": {
        "validate_params": ["sampling_params"],
        "add_request": ["self", "req_idx", "sampling_params"],
        "apply": ["self", "logits", "ctx"],
    },
    "vllm.v1.sample.logits_processor:LogitsProcessor": {
        "validate_params": ["sampling_params"],
        "apply": ["self", "logits"],
        "update_state": ["self", "batch_update"],
    },
}

#: Where -> fields that must be there.
FIELDS = {
    "vllm.v1.kv_cache_interface:KVCacheTensor": [
        "size",
        "layers",
        "layer_stride",
        "block_stride",
        "offset",
    ],
    "vllm.v1.kv_cache_interface:KVCacheConfig": [
        "num_blocks",
        "kv_cache_tensors",
        "kv_cache_groups",
    ],
    "vllm.v1.attention.backend:CommonAttentionMetadata": [
        "query_start_loc",
        "query_start_loc_cpu",
        "seq_lens",
        "seq_lens_cpu_upper_bound",
        "num_reqs",
        "num_actual_tokens",
        "max_query_len",
        "max_seq_len",
        "block_table_tensor",
        "slot_mapping",
        "causal",
        "is_prefilling",
        "positions",
    ],
}

#: Classes whose fields we take or leave rows of: none may be new or gone unnoticed.
ROW_FIELDS = {
    f"{V2}.model_runner:BatchReqState": {
        "decode_graph_eligible",
        "has_prefill",
        "idx_mapping_np",
        "is_prefilling_np",
        "max_seq_len_np",
        "num_computed_prefill_tokens_np",
        "num_draft_tokens_np",
        "num_scheduled_tokens",
        "num_tokens",
        "prefill_len_np",
        "prefill_runs_as_decode_np",
        "req_ids",
    },
    f"{V2}.input_batch:InputBatch": {
        "cu_num_logits",
        "cu_num_logits_np",
        "dcp_local_seq_lens",
        "decode_graph_eligible",
        "expanded_idx_mapping",
        "expanded_local_pos",
        "fast_prefill",
        "has_prefill",
        "has_structured_output_reqs",
        "idx_mapping",
        "idx_mapping_np",
        "input_ids",
        "is_padding",
        "is_prefilling_np",
        "logits_indices",
        "max_query_len",
        "max_seq_len_np",
        "num_computed_prefill_tokens_np",
        "num_computed_tokens_np",
        "num_draft_tokens",
        "num_draft_tokens_per_req",
        "num_reqs",
        "num_reqs_after_padding",
        "num_scheduled_tokens",
        "num_tokens",
        "num_tokens_after_padding",
        "positions",
        "prefill_len_np",
        "prefill_runs_as_decode_np",
        "prompt_lens",
        "query_start_loc",
        "query_start_loc_np",
        "req_ids",
        "seq_lens",
        "seq_lens_cpu_upper_bound",
    },
}

#: Fields of some releases that are unset in what we allow.
UNSET = {"dcp_local_seq_lens_cpu_upper_bound", "num_admitted_draft_tokens", "pcp"}


def load(name):
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def fields(kind):
    return set(getattr(kind, "_fields", ())) or set(kind.__dataclass_fields__)


@pytest.mark.parametrize("name", SIGNATURES)
def test_arguments(name):
    kind = load(name)
    for method, expected in SIGNATURES[name].items():
        found = list(inspect.signature(getattr(kind, method)).parameters)
        assert found[: len(expected)] == expected, f"{name}.{method}{tuple(found)}"


@pytest.mark.parametrize("name", FIELDS)
def test_fields(name):
    assert set(FIELDS[name]) <= fields(load(name)), name


@pytest.mark.parametrize("name", ROW_FIELDS)
def test_fields_over_rows(name):
    found = fields(load(name)) - UNSET
    assert found == ROW_FIELDS[name], f"{name}: {found ^ ROW_FIELDS[name]}"
