"""What only a state dict says about its model: remapped codebooks, kinds of shortcut, the order of the codes."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from trt_vqgan.errors import CheckpointError
from trt_vqgan.export.stored_tensor import StoredTensor
from trt_vqgan.export.torch_file import Unreadable

Entry = StoredTensor | Unreadable

# The weights of a quantizer that have one row (or output channel) for each entry of the codebook.
CODEBOOK_KEYS = (
    "quantize.embedding.weight",
    "quantize.embed.weight",
    "quantize.proj.weight",
    "quantize.proj.bias",
)


@dataclasses.dataclass(frozen=True)
class StageFacts:
    """What the weights say about one VQGAN.

    Attributes
    ----------
    used : rows of the stored codebook by code, int64 (N,), where the codebook is remapped; else None.
    codebook_rows : rows of the stored codebook, before remapping; None where none is stored.
    conv_shortcut : whether shortcuts of residual blocks are 3x3 convolutions.
    """

    used: NDArray[np.int64] | None = None
    codebook_rows: int | None = None
    conv_shortcut: bool = False


@dataclasses.dataclass(frozen=True)
class StoredFacts:
    """What the weights say about a model; ``permutation[i]`` is the raster index of the i-th code."""

    first_stage: StageFacts = StageFacts()
    condition: StageFacts = StageFacts()
    permutation: tuple[int, ...] | None = None


def take_facts(entries: dict[str, Entry]) -> StoredFacts:
    """Return the facts in a state dict with canonical keys, and take the index buffers out of it.

    Raises
    ------
    CheckpointError : an index buffer is damaged or contradicts another.
    """
    return StoredFacts(_stage(entries, "first_stage."), _stage(entries, "condition."), _permutation(entries))


def _stage(entries: dict[str, Entry], prefix: str) -> StageFacts:
    conv_shortcut = any(key.startswith(prefix) and key.endswith(".conv_shortcut.weight") for key in entries)
    stored = (entries.get(prefix + name) for name in CODEBOOK_KEYS)
    rows = next((item.shape[0] for item in stored if isinstance(item, StoredTensor) and item.shape), None)
    return StageFacts(_used_rows(entries, prefix, rows), rows, conv_shortcut)


def _integers(entry: Entry, name: str) -> NDArray[np.int64]:
    if isinstance(entry, Unreadable) or not entry.is_integer or len(entry.shape) != 1:
        raise CheckpointError(f"key {name!r} is no list of integers")
    return entry.read_integers()


def _used_rows(entries: dict[str, Entry], prefix: str, codebook_rows: int | None) -> NDArray[np.int64] | None:
    entry = entries.pop(f"{prefix}quantize.used", None)
    if entry is None:
        return None
    rows = _integers(entry, "quantize.used")
    if not len(rows):
        raise CheckpointError("key 'quantize.used' is empty, wanted the rows of the codebook that are used")
    if codebook_rows is not None:
        outside = rows[(rows < 0) | (rows >= codebook_rows)]
        if len(outside):
            raise CheckpointError(f"key 'quantize.used' names row {outside[0]}, the codebook has {codebook_rows} rows")
    return rows


def _permutation(entries: dict[str, Entry]) -> tuple[int, ...] | None:
    forward_entry = entries.pop("permuter.forward_shuffle_idx", None)
    backward_entry = entries.pop("permuter.backward_shuffle_idx", None)
    if forward_entry is None and backward_entry is None:
        return None
    if forward_entry is None or backward_entry is None:
        lost = "forward" if forward_entry is None else "backward"
        raise CheckpointError(f"key 'permuter.{lost}_shuffle_idx' is missing, its counterpart is there")
    forward = _integers(forward_entry, "permuter.forward_shuffle_idx")
    backward = _integers(backward_entry, "permuter.backward_shuffle_idx")
    if not np.array_equal(np.sort(forward), np.arange(len(forward))):
        raise CheckpointError(f"key 'permuter.forward_shuffle_idx' is no permutation of 0 to {len(forward) - 1}")
    if not np.array_equal(np.argsort(forward), backward):
        raise CheckpointError("key 'permuter.backward_shuffle_idx' is not the inverse of forward_shuffle_idx")
    return tuple(forward.tolist())


def drop_shared_stage(entries: dict[str, Entry]) -> bool:
    """Take the condition's copy of the first stage out of a state dict, which lists it twice; return whether it was.

    Raises
    ------
    CheckpointError : the two differ.
    """
    copies = [key for key in entries if key.startswith("condition.")]
    for key in copies:
        copy = entries.pop(key)
        if not _same(entries.get("first_stage." + key.removeprefix("condition.")), copy):
            raise CheckpointError(
                f"key {'cond_stage_model.' + key.removeprefix('condition.')!r} differs from the first stage's, but the "
                "config says that the condition is the first stage"
            )
    return bool(copies)


def _same(own: Entry | None, copy: Entry) -> bool:
    if own == copy:  # the same bytes of the same file
        return True
    if not isinstance(own, StoredTensor) or not isinstance(copy, StoredTensor) or own.shape != copy.shape:
        return False
    return np.array_equal(own.read(), copy.read(), equal_nan=True)
