"""What our own kernels do between the dense parts, on whatever device: the interface, and NumPy's form of it."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trt_vqgan.kernels.reference.cached_attention import SharedPrefix, cached_attention
from trt_vqgan.kernels.reference.decode_state import FREE, KEEP_ALL, UNUSABLE, DecodeState, advance, guided_logits
from trt_vqgan.runtime.code_weights import code_weights
from trt_vqgan.runtime.device.arrays import DeviceArray
from trt_vqgan.runtime.device.host import HostDevice
from trt_vqgan.runtime.gpu.activations import Activations
from trt_vqgan.runtime.gpu.state import DeviceState
from trt_vqgan.runtime.philox import random64
from trt_vqgan.runtime.sampler import draw_from


@dataclasses.dataclass(frozen=True)
class PrefixArrays:
    """The first positions of all rows of a layer, once for each group of rows that share them.

    Attributes
    ----------
    keys, values : numbers (G, H, P, D).
    group : int32 (B,), whose prefix each row continues; 0 for a row that idles.
    members : int32 (sets, 17), the same as `trt_vqgan.kernels.launches.cached_attention.shared_rows` lists it.
    """

    keys: DeviceArray
    values: DeviceArray
    group: DeviceArray
    members: DeviceArray


class AttentionWorkspace(Protocol):
    """What attention over one shape needs beside its arrays; fixed, so that a graph may hold it."""

    def free(self) -> None:
        """Give it back."""


class Operations(Protocol):
    """The kernels of the driver, on one device and for one model's embeddings."""

    def attention_workspace(
        self, *, batch: int, tokens: int, capacity: int, prefix_length: int = 0, prefix_sets: int = 0
    ) -> AttentionWorkspace:
        """Return what `cached_attention` needs for ``batch`` rows of ``tokens`` tokens over ``capacity`` positions.

        ``prefix_length`` more positions stand before those where rows share a prefix, in ``prefix_sets`` sets of rows.
        """

    def embed_tokens(self, tokens: DeviceArray, positions: DeviceArray, x: DeviceArray) -> None:
        """Write the embeddings of ``tokens`` int32 (B, T) at ``positions`` int32 (B, T) to ``x`` float32 (B, T, d)."""

    def cached_attention(
        self,
        work: Activations,
        keys: DeviceArray,
        values: DeviceArray,
        lengths: DeviceArray,
        workspace: AttentionWorkspace,
        *,
        num_unmasked: int = 0,
        prefix: PrefixArrays | None = None,
    ) -> None:
        """Append ``work.qkv`` to caches (B, H, S, D) at ``lengths`` int32 (B,) and write ``work.attended``.

        With a ``prefix``, ``lengths`` count its positions, and the caches hold those behind it. Definition:
        `trt_vqgan.kernels.reference.cached_attention`.
        """

    def sample_codes(self, logits: DeviceArray, state: DeviceState, x: DeviceArray) -> None:
        """Draw a code for each picture from ``logits`` float32 (rows, V) and make the next ``x`` float32 (rows, d).

        Definition: `trt_vqgan.kernels.reference.decode_state.sample_step`.
        """

    def close(self) -> None:
        """Give the embeddings back."""


class NoWorkspace:
    """NumPy needs none."""

    def free(self) -> None:
        """Return: there is nothing."""


class HostOperations:
    """The kernels' definitions on NumPy memory.

    Parameters
    ----------
    device : whose arrays they work on.
    token_embedding, position_embedding : (V, d) and (P, d), float16 or float32.
    """

    def __init__(
        self, device: HostDevice, token_embedding: npt.NDArray[Any], position_embedding: npt.NDArray[Any]
    ) -> None:
        self._device = device
        self._tokens, self._positions = token_embedding, position_embedding

    def attention_workspace(
        self, *, batch: int, tokens: int, capacity: int, prefix_length: int = 0, prefix_sets: int = 0
    ) -> NoWorkspace:
        """Return nothing."""
        return NoWorkspace()

    def embed_tokens(self, tokens: DeviceArray, positions: DeviceArray, x: DeviceArray) -> None:
        """Write embeddings to ``x``."""
        view = self._device.view
        token = self._tokens[view(tokens)].astype(np.float32)
        view(x)[...] = token + self._positions[view(positions)].astype(np.float32)

    def cached_attention(
        self,
        work: Activations,
        keys: DeviceArray,
        values: DeviceArray,
        lengths: DeviceArray,
        workspace: AttentionWorkspace,
        *,
        num_unmasked: int = 0,
        prefix: PrefixArrays | None = None,
    ) -> None:
        """Append and attend."""
        view, shared = self._device.view, None
        if prefix is not None:
            shared = SharedPrefix(keys=view(prefix.keys), values=view(prefix.values), group=view(prefix.group))
        cached_attention(
            view(work.qkv),
            view(keys),
            view(values),
            view(lengths),
            view(work.attended),
            num_unmasked=num_unmasked,
            prefix=shared,
        )

    def sample_codes(self, logits: DeviceArray, state: DeviceState, x: DeviceArray) -> None:
        """Draw, with the vectorised sampler: the same codes as the definition's, one picture at a time."""
        view = self._device.view
        arrays = DecodeState(
            lengths=view(state.lengths),
            columns=view(state.columns),
            ends=view(state.ends),
            codes=view(state.codes),
            forced=view(state.forced),
            code_positions=view(state.code_positions),
            pictures=view(state.pictures),
            sampling=view(state.sampling),
        )
        codes = _next_codes(view(logits), arrays)
        advance(arrays, codes, view(x), token_embedding=self._tokens, position_embedding=self._positions)

    def close(self) -> None:
        """Return: the embeddings go with this object."""


def _next_codes(logits: npt.NDArray[np.float32], state: DecodeState) -> npt.NDArray[np.int32]:
    """Return the code of each active row's column, as `kernels.reference.decode_state.sample_step` draws it."""
    codes = np.full(len(state.columns), FREE, dtype=np.int32)
    active = state.active()
    forced = state.forced[active, state.columns[active]]
    codes[active] = forced
    drawn = active[forced < 0]
    for row_sampling in np.unique(state.sampling[drawn]):
        rows = drawn[state.sampling[drawn] == row_sampling]
        size = int(row_sampling["codebook_size"])
        usable = logits[rows, :size]
        if state.guided:
            without = logits[rows + len(state.columns), :size]
            usable = guided_logits(usable, without, scale=row_sampling["guidance_scale"])
        codes[rows] = _draw(usable, row_sampling, state, rows)
    return codes


def _draw(
    logits: npt.NDArray[np.float32], row: np.void, state: DecodeState, rows: npt.NDArray[np.intp]
) -> npt.NDArray[np.int64]:
    """Return one code for each row of logits; `UNUSABLE` where none can be drawn."""
    codes = np.full(len(logits), UNUSABLE, dtype=np.int64)
    maximum = logits.max(axis=1, keepdims=True)
    can = np.isfinite(maximum[:, 0])
    if not can.any():
        return codes
    logits, rows = np.ascontiguousarray(logits[can]), rows[can]
    if row["greedy"]:
        codes[can] = logits.argmax(axis=1)
        return codes
    top_k = None if row["top_k"] == KEEP_ALL else int(row["top_k"])
    weights = code_weights(logits, maximum[can], rate=row["rate"], top_k=top_k, top_p=float(row["top_p"]))
    random = random64(
        int(row["seed"]),
        pictures=state.pictures[rows].astype(np.int64),
        positions=state.code_positions[state.columns[rows]].astype(np.int64),
    )
    codes[can] = draw_from(weights, random, codebook_size=logits.shape[1])
    return codes
