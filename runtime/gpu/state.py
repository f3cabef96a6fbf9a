"""The state of a decode loop in device memory, which only the sampling at the end of each step changes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.reference.decode_state import FREE, KEEP_ALL, SAMPLING_ROW, UNUSABLE
from trt_vqgan.kernels.reference.sample_codes import exponent_rate
from trt_vqgan.runtime.device.arrays import DeviceArray
from trt_vqgan.runtime.device.interface import Device
from trt_vqgan.runtime.sampler import Sampling

Int64Array = npt.NDArray[np.int64]

IDLE_LENGTH = -1
"""Length of a row that nobody uses: attention then writes and reads nothing of it."""


@dataclasses.dataclass(frozen=True)
class DeviceState:
    """The arrays of `trt_vqgan.kernels.reference.decode_state.DecodeState`, which says what each is, on a device.

    ``batch`` pictures have ``rows`` rows: as many, or twice as many with guidance.
    """

    lengths: DeviceArray
    columns: DeviceArray
    ends: DeviceArray
    codes: DeviceArray
    forced: DeviceArray
    code_positions: DeviceArray
    pictures: DeviceArray
    sampling: DeviceArray

    @property
    def batch(self) -> int:
        """Pictures."""
        return len(self.columns)

    @property
    def rows(self) -> int:
        """Rows of the transformer."""
        return len(self.lengths)

    @property
    def guided(self) -> bool:
        """Whether each picture has a second row, without its condition."""
        return self.rows != self.batch

    def free(self) -> None:
        """Give the arrays back."""
        for field in dataclasses.fields(self):
            getattr(self, field.name).memory.free()


def allocate_state(device: Device, *, batch: int, guided: bool, num_codes: int) -> DeviceState:
    """Return a state for ``batch`` pictures of ``num_codes`` codes, with anything in it."""

    def array(shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        return device.allocate(shape, dtype)

    return DeviceState(
        lengths=array((2 * batch if guided else batch,), np.int32),
        columns=array((batch,), np.int32),
        ends=array((batch,), np.int32),
        codes=array((batch, num_codes), np.int32),
        forced=array((batch, num_codes), np.int32),
        code_positions=array((num_codes,), np.uint32),
        pictures=array((batch,), np.uint32),
        sampling=array((batch,), SAMPLING_ROW),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawing:
    """What a decode loop is to draw: B pictures of N codes in the model's order.

    Attributes
    ----------
    prefixes : tokens int64 (T,) of each row before the first code that is drawn: condition and kept codes; rows may be
        of different lengths. With guidance 2B of them, the second half without the condition.
    codes : int64 (B, N), `FREE` where a code is drawn, else the code that is kept.
    starts, ends : int64 (B,), the first code that is drawn, and the first one after the last.
    code_positions : int64 (N,), `trt_vqgan.runtime.philox.grid_position` of each code.
    sampling, seed : how the codes are drawn, one for each picture.
    pictures : int64 (B,), number of each picture.
    guidance_scale : None without guidance.
    codebook_size : codes that may be drawn; the first of the vocabulary.
    """

    prefixes: tuple[Int64Array, ...]
    codes: Int64Array
    starts: Int64Array
    ends: Int64Array
    code_positions: Int64Array
    sampling: tuple[Sampling, ...]
    seeds: tuple[int, ...]
    pictures: Int64Array
    guidance_scale: float | None
    codebook_size: int

    def __post_init__(self) -> None:
        batch, count = self.codes.shape
        rows = batch if self.guidance_scale is None else 2 * batch
        sizes = (len(self.prefixes), len(self.starts), len(self.ends), len(self.sampling), len(self.seeds))
        if sizes != (rows, batch, batch, batch, batch) or len(self.pictures) != batch:
            raise ShapeError(
                f"drawing: found {sizes} prefixes, starts, ends, samplings and seeds for {batch} pictures, {rows} rows"
            )
        if len(self.code_positions) != count or (self.starts < 0).any() or (self.ends > count).any():
            raise ShapeError(f"drawing: found codes from {self.starts} to {self.ends}, wanted them within {count}")
        if any(len(prefix) == 0 for prefix in self.prefixes):
            raise ShapeError("drawing: found a row without tokens before its first code, wanted at least one")

    @property
    def batch(self) -> int:
        """Pictures."""
        return len(self.codes)

    @property
    def guided(self) -> bool:
        """Whether each picture has a second row, without its condition."""
        return self.guidance_scale is not None

    @property
    def steps(self) -> int:
        """Codes that the longest row draws or takes."""
        return int((self.ends - self.starts).max(initial=0))

    @property
    def positions(self) -> int:
        """Positions that the longest row takes in its cache; the last code takes none."""
        prefixes = np.array([len(prefix) for prefix in self.prefixes[: self.batch]])
        return int((prefixes + np.maximum(self.ends - self.starts - 1, 0)).max())

    def upload(self, device: Device, state: DeviceState) -> None:
        """Write the beginning of the loop into ``state``; pictures beyond those of the drawing are idle."""
        batch, room = self.batch, state.batch

        def padded(values: npt.NDArray[Any], fill: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
            result = np.full((room, *values.shape[1:]), fill, dtype=dtype)
            result[:batch] = values
            return result

        lengths = np.array([len(prefix) - 1 for prefix in self.prefixes[:batch]])  # the first draw makes them whole
        one = padded(lengths, IDLE_LENGTH, np.int32)
        device.upload(state.lengths, np.concatenate([one, one]) if self.guided else one)
        device.upload(state.columns, padded(self.starts, 0, np.int32))
        device.upload(state.ends, padded(self.ends, 0, np.int32))
        device.upload(state.codes, padded(self.codes, FREE, np.int32))
        device.upload(state.forced, padded(self.codes, FREE, np.int32))
        device.upload(state.code_positions, self.code_positions.astype(np.uint32))
        device.upload(state.pictures, padded(self.pictures, 0, np.uint32))
        device.upload(state.sampling, self._sampling_rows(room))

    def _sampling_rows(self, room: int) -> npt.NDArray[np.void]:
        rows = np.zeros(room, dtype=SAMPLING_ROW)
        for i, (sampling, seed) in enumerate(zip(self.sampling, self.seeds, strict=True)):
            top_k = KEEP_ALL if sampling.top_k is None else min(sampling.top_k, KEEP_ALL)
            rows[i] = (
                seed,
                exponent_rate(sampling.temperature),
                top_k,
                sampling.top_p,
                sampling.greedy,
                self.guidance_scale or 0,
                self.codebook_size,
            )
        return rows


def checked_codes(codes: npt.NDArray[np.int32], batch: int) -> Int64Array:
    """Return the codes int64 (batch, N) of a state's, `FREE` where none is drawn yet.

    Raises
    ------
    ShapeError : the logits of a picture were NaN, +inf or -inf throughout, so no code could be drawn.
    """
    found: Int64Array = codes[:batch].astype(np.int64)
    if (found == UNUSABLE).any():
        row, column = np.argwhere(found == UNUSABLE)[0]
        raise ShapeError(
            f"logits of picture {row} of the batch, code {column}: found NaN, +inf or only -inf, wanted finite "
            "numbers; float16 may be too narrow for this model, --backend onnxruntime computes in float32"
        )
    return found
