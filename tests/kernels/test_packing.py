"""Weights packed for the decode step, by the formula and back."""

from __future__ import annotations

import numpy as np
import pytest

from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.packing import pack_weights, packed_bytes, packed_shape, unpack_weights


@pytest.mark.parametrize(("outputs", "inputs"), [(1, 8), (16, 32), (17, 40), (48, 64), (40, 104)])
def test_every_weight_is_where_the_formula_says(outputs: int, inputs: int) -> None:
    weight = np.random.default_rng(inputs).standard_normal((outputs, inputs)).astype(np.float16)
    packed = pack_weights(weight)
    assert packed.shape == packed_shape(outputs, inputs)
    assert packed.nbytes == packed_bytes(outputs, inputs)
    for (tile, block, product, lane, half), found in np.ndenumerate(packed):
        g, c = divmod(lane, 4)
        r, h, e = half // 4, half // 2 % 2, half % 2
        n, k = 16 * tile + 8 * h + g, 32 * block + 8 * c + 4 * product + 2 * r + e
        assert found == (weight[n, k] if n < outputs and k < inputs else 0)
    np.testing.assert_array_equal(unpack_weights(packed, outputs=outputs, inputs=inputs), weight)


def test_wider_weights_are_rounded() -> None:
    weight = np.random.default_rng(0).standard_normal((5, 8))
    unpacked = unpack_weights(pack_weights(weight), outputs=5, inputs=8)
    np.testing.assert_array_equal(unpacked, weight.astype(np.float16))


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(ShapeError, match="wanted a matrix"):
        pack_weights(np.zeros((2, 3, 4), np.float16))
    with pytest.raises(ShapeError, match="not finite in float16"):
        pack_weights(np.full((2, 3), 7e4, np.float32))
    with pytest.raises(ShapeError, match="unpack_weights"):
        unpack_weights(pack_weights(np.zeros((16, 32), np.float16)), outputs=17, inputs=32)
