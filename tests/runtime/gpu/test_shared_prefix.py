"""Prefixes that pictures share: when, and that each picture's codes are those that it would have alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.gpu.small_engines import DeviceModel, make_device_model
from tests.runtime.gpu.test_driver import GREEDY, drawing, drawn_alone
from trt_vqgan.runtime.gpu.shared_prefix import PrefixCache, PrefixSize, Sharing, find_sharing

A, B, C = (np.random.default_rng(seed).integers(0, 61, 20) for seed in range(3))


@pytest.fixture(scope="module")
def shared_model(tmp_path_factory: pytest.TempPathFactory) -> DeviceModel:
    return make_device_model(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def model(shared_model: DeviceModel) -> Iterator[DeviceModel]:
    """A small model that shares whatever can be shared."""
    with shared_model.engine.sharing_from(1):
        yield shared_model
    shared_model.engine._plans.clear()


# --- when -------------------------------------------------------------------------------------------------------------


def sharing_of(prefixes: list[np.ndarray], *, share_from: int = 1) -> Sharing | None:
    return find_sharing(prefixes, position_bytes=4, share_from=share_from)


def test_equal_prefixes_of_one_length_are_shared() -> None:
    found = sharing_of([B, A, B, B])
    assert found is not None
    np.testing.assert_array_equal(found.tokens[found.group], [B, A, B, B])
    assert len(found.tokens) == 2
    assert sharing_of([A, B, C]) is None
    assert sharing_of([A]) is None
    assert sharing_of([A, A, A[:19]]) is None


def test_sharing_must_save_enough_reading() -> None:
    """20 rows take two readings of 20 positions of 4 bytes and not 20; two groups of ten take one each."""
    for prefixes in ([A] * 20, [A, B] * 10):
        assert sharing_of(prefixes, share_from=18 * 20 * 4) is not None
        assert sharing_of(prefixes, share_from=18 * 20 * 4 + 1) is None


@pytest.mark.parametrize("groups", [1, 2, 3, 5, 8])
def test_a_size_has_room_for_every_distribution_of_its_rows(groups: int) -> None:
    rows, rng = 32, np.random.default_rng(0)
    for _ in range(50):
        group = np.concatenate([np.arange(groups), rng.integers(0, groups, rows - groups)])
        size = PrefixSize.of(Sharing(np.zeros((groups, 5), np.int64), group))
        needed = sum(-(-count // 16) for count in np.bincount(group))
        assert needed <= size.sets(rows) <= rows
    assert size.groups >= groups


# --- that it changes nothing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance_scale", [None, 1.7])
def test_codes_are_those_of_each_picture_alone(model: DeviceModel, guidance_scale: float | None) -> None:
    """Three pictures of two conditions in a bucket of four; their rows without a condition share one more prefix."""
    prefixes = [A, B, A]
    if guidance_scale is not None:
        prefixes += [C] * 3
    wanted = drawing(prefixes, guidance_scale=guidance_scale, pictures=np.array([4, 0, 9]))
    for _ in range(2):  # captured, and replayed from its beginning
        found = model.engine.draw(wanted)
        for row in range(3):
            np.testing.assert_array_equal(found[row], drawn_alone(model, wanted, row))
    (size,) = model.engine._plans._plans
    assert size.prefix == PrefixSize(length=20, groups=2 if guidance_scale is None else 4)
    assert size.capacity == 64, "the rows' own caches hold what follows the prefix"


def test_another_drawing_of_the_size_has_other_prefixes(model: DeviceModel) -> None:
    """The graph is kept; who shares what, and what, is data."""
    model.engine.draw(drawing([A, A, B, B]))
    wanted = drawing([C, B, B, B], sampling=(GREEDY,) * 4)
    found = model.engine.draw(wanted)
    assert len(model.engine._plans._plans) == 1
    for row in range(4):
        np.testing.assert_array_equal(found[row], drawn_alone(model, wanted, row))


def test_prefixes_that_see_each_other_both_ways(tmp_path: Path) -> None:
    model = make_device_model(tmp_path, num_unmasked=20)
    wanted = drawing([A, A])
    with model.engine.sharing_from(1):
        found = model.engine.draw(wanted)
    assert [size.prefix is not None for size in model.engine._plans._plans] == [True]
    for row in range(2):
        np.testing.assert_array_equal(found[row], drawn_alone(model, wanted, row))


def test_what_does_not_pay_is_not_shared(model: DeviceModel) -> None:
    for wanted in (drawing([A, B]), drawing([A, A], ends=np.array([1, 1])), drawing([A, A[:9]])):
        model.engine._plans.clear()
        model.engine.draw(wanted)
        assert [size.prefix for size in model.engine._plans._plans] == [None]


def test_another_groups_prefix_is_noticed(model: DeviceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: rows that are given each other's prefix."""
    upload = PrefixCache.upload

    def exchanged(cache: PrefixCache, group: np.ndarray) -> None:
        upload(cache, np.where(group < 0, group, 1 - group).astype(np.int32))

    wanted = drawing([A, A, B, B], sampling=(GREEDY,) * 4)
    right: Any = model.engine.draw(wanted)
    monkeypatch.setattr(PrefixCache, "upload", exchanged)
    assert not np.array_equal(model.engine.draw(wanted), right)
