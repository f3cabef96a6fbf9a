"""The definition of cached_attention against torch's scaled_dot_product_attention over the whole sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tolerances import CACHED_ATTENTION_FLOAT64, CACHED_ATTENTION_FP32, CACHED_ATTENTION_HALF
from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.reference import cached_attention as definition
from trt_vqgan.kernels.reference.cached_attention import SharedPrefix, cached_attention

torch = pytest.importorskip("torch")

Array = NDArray[Any]


def _by_torch(qkv: Array, num_unmasked: int) -> Array:
    """Attention (T, H * D) of one row's whole sequence, (T, 3, H, D), in float64."""
    query, key, value = torch.from_numpy(qkv.astype(np.float64)).permute(1, 2, 0, 3)
    tokens = qkv.shape[0]
    mask = torch.ones(tokens, tokens).tril()
    mask[:num_unmasked, :num_unmasked] = 1
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask.bool())
    return np.asarray(out.permute(1, 0, 2).reshape(tokens, -1))


def _error(
    pieces: list[int], *, dtype: Any = np.float64, num_unmasked: int = 0, heads: int = 2, size: int = 8
) -> float:
    """Feed rows of different lengths piece by piece; return the largest error of any output against torch."""
    rng = np.random.default_rng(len(pieces))
    rows, longest = 3, sum(pieces)
    ahead = np.array([0, 2, 5])  # tokens that a row has before the first piece: known one by one, causally
    sequences = rng.standard_normal((rows, longest + 5, 3, heads, size)).astype(dtype)
    keys = np.full((rows, heads, longest + 7, size), np.nan, dtype)
    values = keys.copy()
    wanted = [_by_torch(sequence, num_unmasked) for sequence in sequences]
    for row in range(rows):
        keys[row, :, : ahead[row]] = sequences[row, : ahead[row], 1].transpose(1, 0, 2)
        values[row, :, : ahead[row]] = sequences[row, : ahead[row], 2].transpose(1, 0, 2)
    lengths, worst = ahead.astype(np.int32), 0.0
    for piece in pieces:
        places = lengths[:, None] + np.arange(piece)
        qkv = sequences[np.arange(rows)[:, None], places]
        out = np.full((rows, piece, heads * size), np.nan, dtype)
        cached_attention(qkv, keys, values, lengths, out, num_unmasked=num_unmasked)
        for row in range(rows):
            worst = max(worst, float(np.abs(out[row] - wanted[row][places[row]]).max()))
        lengths += piece
    assert np.isnan(keys[0, :, longest:]).all(), "positions beyond a row's length are untouched"
    return worst


@pytest.mark.parametrize("pieces", [[1], [9], [1, 1, 1], [4, 1, 3], [16, 16]])
def test_equals_torch(pieces: list[int]) -> None:
    assert _error(pieces) < CACHED_ATTENTION_FLOAT64


def test_leading_positions_see_each_other() -> None:
    # The two rows that begin in the middle had their first tokens put into the cache: these are given, not computed.
    assert _error([9, 1], num_unmasked=7) < CACHED_ATTENTION_FLOAT64


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float32, CACHED_ATTENTION_FP32), (np.float16, CACHED_ATTENTION_HALF)]
)
def test_smaller_floats(dtype: Any, tolerance: float) -> None:
    assert _error([5, 1, 1], dtype=dtype, size=64) < tolerance


def test_a_wrong_mask_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def strictly(length: int, count: int, num_unmasked: int) -> Array:
        i, j = np.arange(length, length + count)[:, None], np.arange(length + count)
        return (j < i) | (j == 0) | ((i < num_unmasked) & (j < num_unmasked))

    monkeypatch.setattr(definition, "visible", strictly)
    assert _error([5]) > 0.01


def test_a_shared_prefix_changes_no_bit() -> None:
    rng = np.random.default_rng(5)
    rows, tokens, heads, size, shared, capacity = 5, 2, 2, 8, 6, 11
    group = np.array([0, 2, 0, 2, 1], np.int32)
    prefix_keys, prefix_values = rng.standard_normal((2, 3, heads, shared, size))
    own = rng.standard_normal((2, rows, heads, capacity, size))
    qkv = rng.standard_normal((rows, tokens, 3, heads, size))
    lengths = np.array(
        [6, 7, 9, 15, 5], np.int32
    )  # the last is shorter than the prefix, the one before reaches the end
    whole_keys = np.concatenate([prefix_keys[group], own[0]], axis=2)
    whole_values = np.concatenate([prefix_values[group], own[1]], axis=2)
    wanted, out = np.full((2, rows, tokens, heads * size), np.nan)
    cached_attention(qkv[:4], whole_keys[:4], whole_values[:4], lengths[:4], wanted[:4])
    prefix = SharedPrefix(keys=prefix_keys, values=prefix_values, group=group)
    before = own.copy()
    cached_attention(qkv, own[0], own[1], lengths, out, prefix=prefix)
    np.testing.assert_array_equal(out[:4], wanted[:4])
    np.testing.assert_array_equal(out[4], 0)
    np.testing.assert_array_equal(own[:, 4], before[:, 4])
    np.testing.assert_array_equal(own[0, :4], whole_keys[:4, :, shared:])


def test_tokens_beyond_the_capacity_are_harmless() -> None:
    rng = np.random.default_rng(6)
    qkv = rng.standard_normal((4, 3, 3, 1, 8))
    keys, values = rng.standard_normal((2, 4, 1, 5, 8))
    before, out = keys.copy(), np.full((4, 3, 8), np.nan)
    cached_attention(qkv, keys, values, np.array([2, 3, 5, -1], np.int32), out)
    assert (out[0] != 0).all()
    assert (out[1, :2] != 0).all()
    np.testing.assert_array_equal(out[1, 2], 0)
    np.testing.assert_array_equal(out[2:], 0)
    np.testing.assert_array_equal(keys[2:], before[2:])
    np.testing.assert_array_equal(keys[1, 0, 3:], qkv[1, :2, 1, 0])


def test_shapes_that_do_not_fit() -> None:
    qkv, cache, out = np.zeros((2, 1, 3, 2, 8)), np.zeros((2, 2, 4, 8)), np.zeros((2, 1, 16))
    lengths = np.zeros(2, np.int32)
    with pytest.raises(ShapeError, match=r"wanted qkv \(B, T, 3, H, D\)"):
        cached_attention(qkv[:, :, 0], cache, cache, lengths, out)
    with pytest.raises(ShapeError, match=r"wanted caches \(2, 2, S, 8\)"):
        cached_attention(qkv, cache[:, :1], cache[:, :1], lengths, out)
    group = np.array([0, 3], np.int32)
    with pytest.raises(ShapeError, match=r"groups from 0 to 3, wanted them in \[0, 2\)"):
        cached_attention(qkv, cache, cache, lengths, out, prefix=SharedPrefix(keys=cache, values=cache, group=group))
    with pytest.raises(ShapeError, match="P at least 1"):
        prefix = SharedPrefix(keys=cache[:, :, :0], values=cache[:, :, :0], group=group)
        cached_attention(qkv, cache, cache, lengths, out, prefix=prefix)
