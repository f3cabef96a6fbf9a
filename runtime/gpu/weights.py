"""The transformer's weights as a bundle's ``gpu/transformer.safetensors`` holds them, mapped and not read.

The format: 8 bytes that hold the header's length (little-endian), a header in JSON that gives each tensor's dtype,
shape and place, then the tensors' bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import BundleError
from trt_vqgan.spec import TransformerSpec

MAX_HEADER_BYTES = 64 << 20
_DTYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}

Tensors = Mapping[str, npt.NDArray[Any]]


def read_transformer_weights(path: Path, spec: TransformerSpec) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors of a weights' file by name, mapped from it.

    Raises
    ------
    BundleError : it can't be read, is cut off, or isn't that of such a transformer; says what is wrong.
    """
    tensors = read_tensors(path)
    width, vocab = spec.hidden_size, spec.vocab_size
    wanted: dict[str, tuple[int, ...]] = {
        "tok_emb.weight": (vocab, width),
        "pos_emb": (spec.max_seq_len, width),
        "ln_f.weight": (width,),
        "ln_f.bias": (width,),
        "head.weight": (vocab, width),
    }
    for i in range(spec.num_layers):
        layer: dict[str, tuple[int, ...]] = {
            "ln1.weight": (width,),
            "ln1.bias": (width,),
            "attn.qkv.weight": (3 * width, width),
            "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "ln2.weight": (width,),
            "ln2.bias": (width,),
            "mlp.0.weight": (4 * width, width),
            "mlp.0.bias": (4 * width,),
            "mlp.2.weight": (width, 4 * width),
            "mlp.2.bias": (width,),
        }
        for name, shape in layer.items():
            wanted[f"blocks.{i}.{name}"] = shape
    for name, shape in wanted.items():
        if name not in tensors or tensors[name].shape != shape:
            found = tensors[name].shape if name in tensors else "nothing"
            raise BundleError(f"{path}: {name}: found {found}, wanted {shape}; export the bundle again")
    return tensors


def read_tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return all tensors of a safetensors file by name, mapped from it.

    Raises
    ------
    BundleError : it can't be read or its header is wrong.
    """

    def wrong(what: str) -> BundleError:
        return BundleError(f"{path}: {what}; export the bundle again")

    try:
        content = np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise wrong(f"can't be read ({error})") from None
    length = int.from_bytes(content[:8].tobytes(), "little")
    if len(content) < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, len(content) - 8):
        raise wrong(f"its header would have {length} bytes, the file has {len(content)}")
    try:
        header = json.loads(content[8 : 8 + length].tobytes())
        data = content[8 + length :]
        return {name: _tensor(data, entry) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise wrong(f"its header is wrong ({error})") from None


def _tensor(data: npt.NDArray[np.uint8], entry: dict[str, Any]) -> npt.NDArray[Any]:
    dtype: np.dtype[Any] = _DTYPES[entry["dtype"]]
    shape = tuple(entry["shape"])
    start, stop = entry["data_offsets"]
    if not 0 <= start <= stop <= len(data) or stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{dtype} {shape} from {start} to {stop} of {len(data)} bytes")
    tensor: npt.NDArray[Any] = data[start:stop].view(dtype).reshape(shape)
    return tensor
