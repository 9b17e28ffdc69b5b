"""The cache whose last K entries are alternatives, beside lists of tokens and stock caches."""

import random

import pytest
import torch
from models import tiny_model
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from s2t_ext.hf.cache_layers import DummyLayer
from s2t_ext.hf.candidate_cache import (
    CandidateLayer,
    can_commit,
    candidate_cache,
    commit_candidates,
)
from s2t_ext.hf.context import cached_tokens

HEADS, SIZE = 2, 3


def entries(tokens: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [batch, heads, length, size] that name their tokens."""
    base = torch.tensor(tokens, dtype=torch.float32)[:, None, :, None]
    keys = base + torch.arange(HEADS)[:, None, None] / 10 + torch.arange(SIZE) / 100
    return keys, -keys[..., :2]  # values of another width, as in latent attention


def tokens_of(keys: torch.Tensor, values: torch.Tensor) -> list[list[int]]:
    tokens = keys[:, 0, :, 0].round().int().tolist()
    expected = entries(tokens)
    assert torch.equal(keys, expected[0]) and torch.equal(values, expected[1])
    return tokens


@pytest.mark.parametrize("window", [None, 1, 4, 70])
@pytest.mark.parametrize("expected_length", [None, 30, 500])
@pytest.mark.parametrize("seed", range(3))
def test_any_use_of_a_layer_is_that_of_a_list(window, expected_length, seed):
    """Prompts, single tokens, candidates and commits, in any order; also what transformers' own
    layers hand out for the same tokens.
    """
    choose = random.Random(seed)
    layer = CandidateLayer(window, expected_length)
    theirs = DynamicLayer() if window is None else DynamicSlidingWindowLayer(window)
    rows: list[list[int]] = [[], []]
    for step in range(120):
        k = choose.choice([1, 1, 1, 2, 8]) if step else 6
        commits = step > 0 and choose.random() < 0.5
        new = [[1 + 2 * len(rows[0]) + 1000 * b + i for i in range(k)] for b in range(2)]
        kv_length, offset = layer.get_mask_sizes(k)
        seen = tokens_of(*layer.update(*entries(new)))
        assert seen == [(row + add)[offset:] for row, add in zip(rows, new, strict=True)]
        assert len(seen[0]) == kv_length
        if window is not None:
            assert kv_length <= window - 1 + k
        if commits:
            slot = [choose.randrange(k) for _ in range(2)]
            commit_candidates(Cache(layers=[layer]), torch.tensor(slot), k)
            new = [[add[s]] for add, s in zip(new, slot, strict=True)]
        assert theirs.get_mask_sizes(len(new[0])) == (
            len(rows[0]) + len(new[0]) - offset,
            offset,
        )
        assert tokens_of(*theirs.update(*entries(new)))[0][-1] == new[0][-1]
        rows = [row + add for row, add in zip(rows, new, strict=True)]
        assert layer.get_seq_length() == len(rows[0]) == theirs.get_seq_length()
        assert layer.get_max_length() == -1
        held = tokens_of(layer.keys, layer.values)
        assert held == [row[len(row) - len(held[0]) :] for row in rows]


def test_a_commit_touches_the_winner_alone():
    """O(1): the prefix stays where it is, bit for bit, in the same memory."""
    layer = CandidateLayer()
    layer.update(*entries([[1, 2, 3], [4, 5, 6]]))
    before = layer.keys.data_ptr()
    layer.update(*entries([[10, 11, 12], [13, 14, 15]]))
    buffer = layer._key_buffer.clone()
    commit_candidates(Cache(layers=[layer]), torch.tensor([2, 1]), 3)
    assert tokens_of(layer.keys, layer.values) == [[1, 2, 3, 12], [4, 5, 6, 14]]
    assert layer.keys.data_ptr() == before
    untouched = torch.ones(buffer.shape[2], dtype=torch.bool)
    untouched[3] = False
    # As bits: room that was never written holds anything, NaN too.
    bits = [b[:, :, untouched].view(torch.int32) for b in (layer._key_buffer, buffer)]
    assert torch.equal(*bits)


def test_buffers_grow_by_factors():
    """The number of copies is logarithmic in the number of tokens."""
    layer, growths, capacity = CandidateLayer(), 0, 0
    for token in range(2000):
        layer.update(*entries([[token]]))
        growths += layer._key_buffer.shape[2] != capacity
        capacity = layer._key_buffer.shape[2]
    assert 2000 <= capacity <= 3000 and growths < 12


def test_the_expected_length_is_allocated_once_and_never_passed():
    layer = CandidateLayer(expected_length=100)
    layer.update(*entries([list(range(90))]))
    assert layer._key_buffer.shape[2] == 100
    layer.update(*entries([list(range(10))]))
    assert layer._key_buffer.shape[2] == 100


def test_an_expected_length_too_small_does_not_stop_the_growth():
    """A prompt of embeddings is not counted in max_length."""
    layer = CandidateLayer(expected_length=20)
    growths, capacity = 0, 0
    layer.update(*entries([list(range(200))]))
    for token in range(200):
        layer.update(*entries([[token]]))
        growths += layer._key_buffer.shape[2] != capacity
        capacity = layer._key_buffer.shape[2]
    assert growths <= 3


def test_a_sliding_buffer_stays_small():
    layer = CandidateLayer(sliding_window=16, expected_length=10_000)
    for token in range(3000):
        layer.update(*entries([[token]]))
    assert layer._key_buffer.shape[2] <= 64
    assert layer.get_seq_length() == 3000


# ---- crop, reorder, reset ------------------------------------------------------------------------


def test_crop():
    layer = CandidateLayer()
    layer.update(*entries([[1, 2, 3, 4]]))
    layer.crop(0)
    assert layer.get_seq_length() == 4
    layer.crop(-3)
    assert tokens_of(layer.keys, layer.values) == [[1]]
    layer.update(*entries([[9]]))
    assert tokens_of(layer.keys, layer.values) == [[1, 9]]
    layer.crop(-5)
    assert layer.get_seq_length() == 0
    with pytest.raises(ValueError) as error:
        layer.crop(1)
    assert str(error.value) == "CandidateLayer.crop: tokens_to_remove must be at most 0, got 1"


def test_crop_of_a_sliding_layer_never_leaves_a_hole_in_the_window():
    """Dropped tokens cannot come back, so cropping into them is an error, as in transformers."""
    layer, row = CandidateLayer(sliding_window=4), list(range(200))
    for token in row:
        layer.update(*entries([[token]]))
    spare = layer.get_seq_length() - layer._dropped - 3
    with pytest.raises(ValueError) as error:
        layer.crop(-spare - 1)
    assert str(error.value) == (
        "CandidateLayer.crop: tokens_to_remove must leave a full window of 4 tokens in the buffer, "
        f"got {-spare - 1}"
    )
    assert layer.get_seq_length() == 200
    layer.crop(-spare)
    seen = tokens_of(*layer.update(*entries([[900]])))
    assert seen == [[*row[200 - spare - 3 : 200 - spare], 900]]


@pytest.mark.parametrize("window", [None, 3])
def test_rows_are_reordered_repeated_and_selected(window):
    layer = CandidateLayer(window)
    layer.reorder_cache(torch.tensor([0]))  # nothing yet
    layer.batch_repeat_interleave(2)
    layer.batch_select_indices(torch.tensor([0]))
    layer.update(*entries([[1, 2], [3, 4]]))
    layer.reorder_cache(torch.tensor([1, 0, 1]))
    assert tokens_of(layer.keys, layer.values) == [[3, 4], [1, 2], [3, 4]]
    layer.batch_select_indices(torch.tensor([True, True, False]))
    layer.batch_repeat_interleave(2)
    assert tokens_of(layer.keys, layer.values) == [[3, 4], [3, 4], [1, 2], [1, 2]]
    layer.batch_select_indices(torch.tensor([2, 0]))
    layer.update(*entries([[7], [8]]))
    assert tokens_of(layer.keys, layer.values) == [[1, 2, 7], [3, 4, 8]]


def test_reset():
    layer = CandidateLayer(3)
    layer.update(*entries([[1, 2, 3, 4, 5]]))
    layer.reset()
    assert layer.get_seq_length() == 0 and layer.keys is None and not layer.is_initialized
    layer.update(*entries([[1, 2], [3, 4]]))  # another batch size
    assert tokens_of(layer.keys, layer.values) == [[1, 2], [3, 4]]


# ---- caches --------------------------------------------------------------------------------------


def test_layers_follow_the_configuration():
    cache = candidate_cache(tiny_model("gemma3").config, 50)
    assert [layer.sliding_window for layer in cache.layers] == [12, None]
    assert all(layer.expected_length == 50 for layer in cache.layers)
    assert cache.is_croppable and can_commit(cache)


def test_layers_that_cannot_hold_alternatives_are_named():
    with pytest.raises(NotImplementedError) as error:
        candidate_cache(tiny_model("qwen3_next").config)
    assert str(error.value) == (
        "candidate_cache: layer types must be full_attention or sliding_attention, got "
        "linear_attention"
    )


@pytest.mark.parametrize(
    ("layers", "can"),
    [
        ([CandidateLayer(), CandidateLayer(4)], True),
        ([DynamicLayer(), DummyLayer()], True),
        ([DynamicLayer(), DynamicSlidingWindowLayer(4)], False),
    ],
)
def test_which_caches_can_commit(layers, can):
    assert can_commit(Cache(layers=layers)) is can


def test_a_commit_of_layers_of_several_kinds():
    """Sliding and full layers stand at different places of their buffers, and share none."""
    cache = Cache(layers=[CandidateLayer(), CandidateLayer(4), DynamicLayer(), DummyLayer()])
    prompt = [list(range(100)), list(range(200, 300))]
    for layer in cache.layers[:3]:
        layer.update(*entries(prompt))
    for token in range(30):
        for layer in cache.layers[:3]:
            layer.update(*entries([[500 + token], [600 + token]]))
    for layer in cache.layers[:3]:
        layer.update(*entries([[901, 902, 903], [904, 905, 906]]))
    commit_candidates(cache, torch.tensor([1, 2]), 3)
    for layer in cache.layers[:3]:
        held = tokens_of(layer.keys, layer.values)
        assert layer.get_seq_length() == 131
        assert held[0][-4:] == [527, 528, 529, 902] and held[1][-4:] == [627, 628, 629, 906]
    commit_candidates(Cache(layers=[CandidateLayer()]), torch.tensor([0]), 3)  # nothing in it


def test_cached_tokens():
    assert cached_tokens(None) == 0
    assert cached_tokens(DynamicCache()) == 0
    assert cached_tokens(DynamicCache(config=tiny_model("mamba2").config)) == 0
    cache = Cache(layers=[CandidateLayer()])
    cache.layers[0].update(*entries([[1, 2]]))
    assert cached_tokens(cache) == 2
