"""The cache's views: growth inside one allocation, copies of rows, and the formula of its size."""

from __future__ import annotations

import numpy as np
import pytest

from trt_vqgan.runtime.cache_buckets import BUCKET, bucket_length
from trt_vqgan.runtime.kv_cache import KVCache
from trt_vqgan.spec import TransformerSpec

SPEC = TransformerSpec(vocab_size=5, max_seq_len=400, num_layers=2, num_heads=3, hidden_size=24)


@pytest.mark.parametrize(("positions", "wanted"), [(0, 0), (1, 64), (64, 64), (65, 128), (257, 320)])
def test_bucket_length(positions: int, wanted: int) -> None:
    assert bucket_length(positions) == wanted


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_growing_keeps_what_was_written(batch: int) -> None:
    cache = KVCache(SPEC, batch=batch, capacity=300)
    rng = np.random.default_rng(0)
    written = []
    for index in range(4):
        values = rng.standard_normal(cache.view(index).shape).astype(np.float32)
        cache.view(index)[:] = values
        written.append(values)
    addresses = [cache.view(index).ctypes.data for index in range(4)]
    for positions in (65, 66, 200, 300):
        cache.reserve(positions)
        assert cache.visible == bucket_length(positions)
        for index in range(4):
            np.testing.assert_array_equal(cache.view(index)[:, :, :, :BUCKET], written[index])
            np.testing.assert_array_equal(cache.values[index].numpy(), cache.view(index))
    assert addresses == [cache.view(index).ctypes.data for index in range(4)], "growing must not allocate"


def test_reserve_says_whether_views_changed() -> None:
    cache = KVCache(SPEC, batch=1, capacity=130)
    assert not cache.reserve(64)
    assert cache.reserve(65)
    assert not cache.reserve(10)


def test_values_share_memory_with_views() -> None:
    cache = KVCache(SPEC, batch=1, capacity=64)
    cache.view(3)[0, 2, 0, 63, 7] = 42
    assert cache.values[3].numpy()[0, 2, 0, 63, 7] == 42
    assert cache.values[3].data_ptr() == cache.view(3).ctypes.data


def test_copy_rows() -> None:
    source = KVCache(SPEC, batch=2, capacity=70)
    source.reserve(70)
    for index in range(4):
        source.view(index)[:] = np.random.default_rng(index).standard_normal(source.view(index).shape)
    target = KVCache(SPEC, batch=3, capacity=200)
    target.copy_rows(source, np.array([1, 0, 1]), 70)
    for index in range(4):
        np.testing.assert_array_equal(target.view(index)[:, :, :, :70], source.view(index)[[1, 0, 1], :, :, :70])


def test_bytes_needed_is_what_is_allocated() -> None:
    cache = KVCache(SPEC, batch=3, capacity=130)
    allocated = sum(buffer.nbytes for buffer in cache._buffers)
    assert KVCache.bytes_needed(SPEC, batch=3, capacity=130) == allocated
