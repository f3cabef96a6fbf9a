"""One picture on its way through the batch: what was asked for, and how far its codes are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.runtime.code_generator import FREE, CodeGenerator
from trt_vqgan.runtime.guidance import Guidance
from trt_vqgan.runtime.philox import random64
from trt_vqgan.runtime.sampler import Sampling
from trt_vqgan.spec import ModelSpec

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PictureRequest:
    """A picture of the training size, as `CodeGenerator.generate` would be asked for a batch of one.

    Attributes
    ----------
    condition : int64 (L,).
    sampling, seed, picture : how codes are drawn, and the keys of its random numbers.
    kept : int64 (h·w,) in raster order, `FREE` where a code is drawn; None where all are.
    guidance : the picture then takes two rows of the batch.
    on_codes : called between two steps, after every ``codes_every`` codes but not after the last one, with int64
        (h, w), `FREE` where none is drawn yet. The batch waits for it, so it should only hand the array on.
    """

    condition: Int64Array
    sampling: Sampling
    seed: int
    picture: int
    kept: Int64Array | None = None
    guidance: Guidance | None = None
    on_codes: Callable[[Int64Array], object] | None = None
    codes_every: int = 1

    @property
    def width(self) -> int:
        """Rows that the picture takes in the batch."""
        return 1 if self.guidance is None else 2


class RunningPicture:
    """The codes of one picture while they are drawn.

    Attributes
    ----------
    column : the code that is drawn next, in the model's order; ``end`` once all are.
    rows : of the batch, while the picture has any: the condition's, and with guidance the one without.
    """

    def __init__(self, generator: CodeGenerator, request: PictureRequest) -> None:
        self.request = request
        count = generator.spec.num_codes
        self._generator = generator
        self._order = generator.order
        self._codes: Int64Array = np.full(count, FREE, dtype=np.int64)
        if request.kept is not None:
            self._codes[:] = request.kept[self._order]
        self._free: list[bool] = (self._codes == FREE).tolist()
        columns = np.flatnonzero(self._codes == FREE)
        self.column = int(columns[0]) if len(columns) else 0
        self.end = int(columns[-1]) + 1 if len(columns) else 0
        pictures = np.full(count, request.picture, dtype=np.int64)
        self._random = random64(request.seed, pictures=pictures, positions=generator.positions)
        self.rows: list[int] = []

    @property
    def finished(self) -> bool:
        """Whether no code is left to draw."""
        return self.column >= self.end

    @property
    def draws(self) -> bool:
        """Whether the next code is drawn; else it is kept."""
        return self._free[self.column]

    @property
    def random(self) -> np.uint64:
        """The random number of the next code."""
        number: np.uint64 = self._random[self.column]
        return number

    def prefixes(self) -> list[Int64Array]:
        """Return the tokens int64 (T,) before the next code, of each row."""
        request = self.request
        conditions = [request.condition]
        if request.guidance is not None:
            conditions.append(np.broadcast_to(request.guidance.null_condition, request.condition.shape))
        return [np.concatenate([condition, self._codes[: self.column]]) for condition in conditions]

    def logits(self, logits: FloatArray) -> FloatArray:
        """Return the logits float32 (V,) that the next code is drawn from, of those float32 (B, V) of all rows."""
        return self.combined(logits[self.rows])

    def combined(self, own: FloatArray) -> FloatArray:
        """Return the logits float32 (V,) that the next code is drawn from, of those float32 (width, V) of its rows."""
        guidance = self.request.guidance
        size = self._generator.spec.autoencoder.codebook_size
        # a vocabulary larger than the codebook (condition codes share it) may not name a code that can't be decoded
        result: FloatArray = own[0, :size] if guidance is None else guidance.combined(own[:, :size])[0]
        return result

    def take(self, drawn: int | None) -> int:
        """Go on to the next code; return the one that it was, ``drawn`` unless it is kept."""
        if drawn is not None:
            self._codes[self.column] = drawn
        code = int(self._codes[self.column])
        self.column += 1
        request = self.request
        shown = request.on_codes is not None and self.column < len(self._codes)
        if shown and self.column % request.codes_every == 0 and request.on_codes is not None:
            request.on_codes(self.codes())
        return code

    def codes(self) -> Int64Array:
        """Return the codes so far, int64 (h, w) in raster order, `FREE` where none is drawn yet."""
        side = self._generator.spec.autoencoder.latent_size
        raster = np.empty_like(self._codes)
        raster[self._order] = self._codes
        return raster.reshape(side, side)


def outside_the_batch(spec: ModelSpec, request: PictureRequest) -> str:
    """Return why a picture can't be drawn in a running batch, "" where it can.

    The ordinary generator draws such a picture by itself, with the same codes.
    """
    transformer = spec.transformer
    assert transformer is not None
    if transformer.one_pass:
        return "the model predicts all codes at once"
    unmasked = transformer.num_unmasked - len(request.condition)
    kept: npt.NDArray[Any] = np.zeros(0) if request.kept is None else request.kept
    order = range(spec.num_codes) if spec.permutation is None else spec.permutation
    first = next((i for i, place in enumerate(order) if not len(kept) or kept[place] == FREE), spec.num_codes)
    if first < min(unmasked, spec.num_codes):
        return "codes that see each other both ways are computed again for each that is drawn"
    return ""
