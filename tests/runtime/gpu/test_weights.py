"""The weights' file: read as it was written, and refused where it is cut off, wrong, or another model's."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.small_models import random_gpt
from trt_vqgan.errors import BundleError
from trt_vqgan.export.gpu_transformer import transformer_tensors, write_transformer
from trt_vqgan.runtime.gpu.weights import read_tensors, read_transformer_weights
from trt_vqgan.spec import TransformerSpec

SPEC = TransformerSpec(vocab_size=61, max_seq_len=20, num_layers=2, num_heads=2, hidden_size=64)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    gpt = random_gpt(SPEC)
    weights = {f"transformer.{key}": value.detach().numpy() for key, value in gpt.state_dict().items()}
    path, _ = write_transformer(tmp_path_factory.mktemp("weights"), SPEC, weights)
    return path, {name: np.asarray(lazy) for name, lazy in transformer_tensors(SPEC, weights).items()}


def test_what_was_written_is_read(written: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, wanted = written
    found = read_transformer_weights(path, SPEC)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found[name], tensor)


def test_another_models_weights(written: tuple[Path, dict[str, np.ndarray]]) -> None:
    with pytest.raises(BundleError, match=r"blocks.2.ln1.weight: found nothing, wanted \(64,\)"):
        read_transformer_weights(written[0], dataclasses.replace(SPEC, num_layers=3))
    with pytest.raises(BundleError, match=r"tok_emb.weight: found \(61, 64\), wanted \(62, 64\)"):
        read_transformer_weights(written[0], dataclasses.replace(SPEC, vocab_size=62))


@pytest.mark.parametrize(
    ("header", "line"),
    [
        (b"[]", "its header is wrong"),
        (b'{"a": {"dtype": "F16", "shape": [3], "data_offsets": [0, 8]}}', "its header is wrong"),
        (b'{"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}', "its header is wrong"),
        (b'{"a": {"dtype": "F16", "shape": [4], "data_offsets": [8, 16]}}', "of 8 bytes"),
        (b"{x", "its header is wrong"),
    ],
)
def test_wrong_headers(tmp_path: Path, header: bytes, line: str) -> None:
    path = tmp_path / "weights"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(BundleError, match=line):
        read_tensors(path)


def test_files_that_are_cut_off_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    with pytest.raises(BundleError, match="can't be read"):
        read_tensors(path)
    for content in (b"", b"1234", (1 << 40).to_bytes(8, "little") + b"{}"):
        path.write_bytes(content)
        with pytest.raises(BundleError, match="can't be read|its header would have"):
            read_tensors(path)
    header = json.dumps({}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert read_tensors(path) == {}
