"""What `Pipeline.generate` was asked for, checked and complete before anything is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypedDict, cast

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import ConditionError, ShapeError
from trt_vqgan.manifest import Manifest
from trt_vqgan.runtime.buffers import with_host_arrays
from trt_vqgan.runtime.code_generator import FREE
from trt_vqgan.runtime.condition_encoder import CONDITION_ARGUMENTS, ClassIds, ConditionEncoder
from trt_vqgan.runtime.editing import kept_codes, kept_grid, padded_grid, resampled
from trt_vqgan.runtime.engine import Engine
from trt_vqgan.runtime.fitting import Fit, check_fit, fit_picture
from trt_vqgan.runtime.guidance import Guidance
from trt_vqgan.runtime.large_pictures import (
    PLANS,
    Windows,
    condition_grid,
    condition_grid_shape,
    picture_size,
)
from trt_vqgan.runtime.layouts import Layout, read_layouts
from trt_vqgan.runtime.memory import check_picture_memory
from trt_vqgan.runtime.picture_arrays import uint8_pictures
from trt_vqgan.runtime.sampler import Sampling
from trt_vqgan.runtime.window_generator import Plan, WindowReport, check_windows
from trt_vqgan.runtime.window_memory import within_memory

Int64Array = npt.NDArray[np.int64]
ImageArray = npt.NDArray[np.uint8]

DEFAULT_BATCH_SIZE = 8
MAX_PICTURES = 1 << 32  # the random numbers count pictures in 32 bits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a generation is.

    Attributes
    ----------
    done_codes, total_codes : over all pictures.
    pictures_done : pictures decoded.
    """

    done_codes: int
    total_codes: int
    pictures_done: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preview:
    """A picture while it is made.

    Attributes
    ----------
    picture : its number.
    done_codes : codes drawn or kept.
    codes : int64 (h, w), raster order; -1 where none is drawn yet.
    image : uint8 (H, W, C); grey where no code is drawn yet.
    """

    picture: int
    done_codes: int
    codes: Int64Array
    image: ImageArray


OnProgress = Callable[[Progress], object]
OnPreview = Callable[[Preview], object]


class GenerateArguments(TypedDict, total=False):
    """The arguments of `Pipeline.generate`, which says what each is."""

    n: int | None
    seed: int
    class_id: ClassIds | None
    condition_codes: npt.ArrayLike | None
    depth: npt.ArrayLike | None
    segmentation: npt.ArrayLike | None
    coordinates: npt.ArrayLike | None
    layout: object
    image: npt.ArrayLike | None
    shift_labels: bool
    fit: Fit
    init: npt.ArrayLike | None
    keep: npt.ArrayLike | None
    kept_codes: npt.ArrayLike | None
    resample: float | None
    paste: bool
    guidance: float | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    greedy: bool
    batch_size: int | None
    first_picture: int
    on_progress: OnProgress | None
    on_preview: OnPreview | None
    preview_every: int | None
    size: tuple[int, int] | None
    window_plan: Plan
    window_shift: int
    memory_bytes: int | None
    decode_tiles: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that decides the pictures of one call.

    Attributes
    ----------
    conditions : int64 (n, L), a row a picture; of a larger picture's map all its codes, in raster order.
    size : height and width of the pictures, pixels.
    windows : how pictures larger than the training size are drawn; None for pictures of that size.
    decode_tiles : whether pictures are decoded in tiles.
    kept : int64 (n, h·w), raster order, `FREE` where a code is drawn; None where all are.
    originals : uint8 (n, H, W, C), pictures whose kept pixels are pasted back; None for none.
    guidance : None for none.
    preview_every : codes between two previews.
    window_report : filled in while larger pictures are drawn.
    """

    conditions: Int64Array
    sampling: Sampling
    seed: int
    first_picture: int
    batch_size: int
    size: tuple[int, int]
    windows: Windows | None = None
    decode_tiles: bool = False
    kept: Int64Array | None = None
    originals: ImageArray | None = None
    guidance: Guidance | None = None
    on_progress: OnProgress | None = None
    on_preview: OnPreview | None = None
    preview_every: int = 0
    window_report: WindowReport = dataclasses.field(default_factory=WindowReport)

    @property
    def count(self) -> int:
        """Pictures."""
        return len(self.conditions)


class RequestReader:
    """Turns arguments into requests.

    Parameters
    ----------
    manifest : the bundle's, of a model with a transformer or without.
    conditions : encodes its conditions.
    encode : pictures uint8 (B, H, W, C) to codes int64 (B, h, w).
    engine : returns what runs the transformer, where the model has one.
    """

    def __init__(
        self,
        manifest: Manifest,
        conditions: ConditionEncoder,
        encode: Callable[[ImageArray], Int64Array],
        *,
        engine: Callable[[], Engine],
    ) -> None:
        self._manifest = manifest
        self._conditions = conditions
        self._encode = encode
        self._engine = engine

    def read(self, arguments: GenerateArguments) -> Request:
        """Return the request.

        Raises
        ------
        TypeError : an argument that doesn't exist.
        ConditionError, ShapeError : a wrong condition or setting.
        """
        unknown = sorted(set(arguments) - set(GenerateArguments.__annotations__))
        if unknown:
            raise TypeError(f"generate() got an unexpected keyword argument {unknown[0]!r}")
        arguments = cast(GenerateArguments, with_host_arrays(arguments))
        sampling = self._sampling(arguments)
        self._conditions.condition  # noqa: B018  a VQGAN alone is told so before anything else
        n = arguments.get("n")
        if n is not None and n < 1:
            raise ShapeError(f"n: found {n}, wanted at least 1")
        batch_size = arguments.get("batch_size")
        size = DEFAULT_BATCH_SIZE if batch_size is None else batch_size
        if size < 1:
            raise ShapeError(f"batch_size: found {size}, wanted at least 1")
        seed, first = arguments.get("seed", 0), arguments.get("first_picture", 0)
        if not 0 <= seed < 1 << 64:
            raise ShapeError(f"seed: found {seed}, wanted 0 to 2**64 - 1")
        guidance = self._guidance(arguments.get("guidance"))
        preview_every = self._preview_every(arguments)
        fit = check_fit(arguments.get("fit", "crop"))
        init = self._init(arguments)
        picture = picture_size(arguments.get("size"), self._manifest.model)
        windows = self._windows(arguments, picture)
        if windows is not None:
            model = self._manifest.model
            width, rows = picture[1] // model.autoencoder.factor, 1 if guidance is None else 2
            size, windows = within_memory(model, self._engine(), windows, width, batch_size=size, rows_a_picture=rows)
        tokens = self._tokens(arguments, n, fit, picture, windows)
        count = n if n is not None else max(len(tokens), _rows(init), _rows(arguments.get("kept_codes"), grid=True))
        if not 0 <= first <= MAX_PICTURES - count:
            raise ShapeError(f"first_picture: found {first}, wanted 0 to {MAX_PICTURES - count}")
        kept, originals = self._kept(arguments, init, count, seed, first, fit, picture)
        return Request(
            conditions=tokens[np.arange(count) % len(tokens)],
            sampling=sampling,
            seed=seed,
            first_picture=first,
            batch_size=size,
            size=picture,
            windows=windows,
            decode_tiles=arguments.get("decode_tiles", False),
            kept=kept,
            originals=originals,
            guidance=guidance,
            on_progress=arguments.get("on_progress"),
            on_preview=arguments.get("on_preview"),
            preview_every=preview_every,
        )

    def _sampling(self, arguments: GenerateArguments) -> Sampling:
        defaults = self._manifest.sampling
        temperature, top_k, top_p = (arguments.get("temperature"), arguments.get("top_k"), arguments.get("top_p"))
        default_p = 1.0 if defaults.top_p is None else defaults.top_p
        return Sampling(
            temperature=defaults.temperature if temperature is None else temperature,
            top_k=defaults.top_k if top_k is None else top_k,
            top_p=default_p if top_p is None else top_p,
            greedy=arguments.get("greedy", False),
        )

    def _guidance(self, scale: float | None) -> Guidance | None:
        if scale is None:
            return None
        tokens = self._conditions.null_tokens()
        if not np.isfinite(scale) or scale < 0:
            raise ShapeError(f"guidance: found {scale}, wanted a number of at least 0")
        # at 1 the two predictions cancel but for rounding; leaving the second one out is exact, and half the work
        return None if scale == 1 else Guidance(scale=float(scale), null_condition=tokens)

    def _preview_every(self, arguments: GenerateArguments) -> int:
        every = arguments.get("preview_every")
        if every is not None and every < 1:
            raise ShapeError(f"preview_every: found {every}, wanted at least 1")
        if every is not None and arguments.get("on_preview") is None:
            raise ShapeError("preview_every: wanted on_preview too, which is called with the pictures")
        return self._manifest.model.autoencoder.latent_size if every is None else every

    def _windows(self, arguments: GenerateArguments, size: tuple[int, int]) -> Windows | None:
        """Return how a picture of ``size`` is drawn; None for the training size."""
        model = self._manifest.model
        plan, shift = arguments.get("window_plan", "exact"), arguments.get("window_shift", 1)
        memory_bytes = arguments.get("memory_bytes")
        if plan not in PLANS:
            raise ShapeError(f"window_plan: found {plan!r}, wanted one of {', '.join(PLANS)}")
        if memory_bytes is not None and memory_bytes < 0:
            raise ShapeError(f"memory_bytes: found {memory_bytes}, wanted at least 0")
        check_picture_memory(model.autoencoder, size[1], size[0], tiled=arguments.get("decode_tiles", False))
        if size == (model.autoencoder.resolution,) * 2:
            return None
        check_windows(model, shift=shift)
        condition = self._conditions.condition
        shape = None
        layouts: tuple[Layout, ...] = ()
        if condition.kind in ("autoencoder", "coordinates"):
            shape = condition_grid_shape(condition, model, size)
        elif condition.kind == "boxes":
            if arguments.get("layout") is None:
                raise ConditionError(
                    "a larger picture of a scene model needs its layout: each window has its own tokens"
                )
            layouts = tuple(read_layouts(arguments.get("layout"), self._manifest.layout_classes))
        return Windows(
            plan=plan,
            shift=shift,
            memory_bytes=memory_bytes,
            condition_shape=shape,
            layouts=layouts,
            layout_form=self._manifest.layout_form,
        )

    def _tokens(
        self, arguments: GenerateArguments, n: int | None, fit: Fit, size: tuple[int, int], windows: Windows | None
    ) -> Int64Array:
        """Return condition tokens int64 (B, L), a row a condition."""
        given: dict[str, Any] = {name: arguments.get(name) for name in CONDITION_ARGUMENTS}
        codes = arguments.get("condition_codes")
        nothing = all(value is None for value in given.values())
        shift_labels = arguments.get("shift_labels", False)
        if codes is not None:
            if not nothing or shift_labels:
                other = "shift_labels" if nothing else "the other one"
                raise ConditionError(f"condition_codes is a condition of its own: leave {other} out")
            return self._checked(codes, windows)
        if self._conditions.condition.kind == "class" and nothing and not shift_labels:
            return self._conditions.default_classes(n or 1)
        tokens = self._conditions.encode(given, size=size, fit=fit, shift_labels=shift_labels)
        return self._checked(tokens, windows)

    def _checked(self, codes: npt.ArrayLike, windows: Windows | None) -> Int64Array:
        """Return condition codes as int64 (B, L): a picture's tokens, or all codes of a larger picture's map."""
        transformer = self._manifest.model.transformer
        if windows is None or windows.condition_shape is None or transformer is None:
            return self._conditions.tokens(codes)
        return condition_grid(codes, windows.condition_shape, transformer.vocab_size)

    def _init(self, arguments: GenerateArguments) -> ImageArray | None:
        init, keep = arguments.get("init"), arguments.get("keep")
        share, codes = arguments.get("resample"), arguments.get("kept_codes")
        if init is None:
            for name in ("keep", "resample", "paste"):
                if arguments.get(name) is not None and arguments.get(name) is not False:
                    raise ShapeError(f"{name}: wanted init too, the picture that it is about")
            return None
        if codes is not None:
            raise ShapeError("kept_codes: says which codes stay by itself, leave init out")
        if keep is None and share is None:
            raise ShapeError("init: wanted keep too, the part that stays, or resample, the share of codes drawn again")
        if share is not None and not 0 < share <= 1:
            raise ShapeError(f"resample: found {share}, wanted a share above 0, at most 1")
        return uint8_pictures(init, self._manifest.model.autoencoder.in_channels, "init")

    def _kept(
        self,
        arguments: GenerateArguments,
        init: ImageArray | None,
        count: int,
        seed: int,
        first: int,
        fit: Fit,
        size: tuple[int, int],
    ) -> tuple[Int64Array | None, ImageArray | None]:
        """Return kept codes int64 (count, h·w) and the fitted pictures to paste from, each where there is one."""
        if init is None:
            codes = arguments.get("kept_codes")
            return (None if codes is None else self._given_codes(codes, count, size)), None
        factor = self._manifest.model.autoencoder.factor
        frame: dict[str, Any] = {
            "picture": init.shape[1:3], "size": size, "factor": factor, "fit": fit,
        }  # fmt: skip
        keep, share = arguments.get("keep"), arguments.get("resample")
        always = None if keep is None else kept_grid(keep, **frame)
        original_grid = padded_grid(**frame)
        fitted = np.stack([fit_picture(picture, *size, fit=fit) for picture in init])
        encoded = self._encode(fitted)
        kept = np.empty((count, encoded[0].size), dtype=np.int64)
        for i in range(count):
            stays = original_grid.copy() if always is None else always
            if share is not None:
                open_to_change = original_grid if always is None else original_grid & ~always
                stays = original_grid & ~resampled(share, open_to_change, seed=seed, picture=first + i)
            kept[i] = kept_codes(encoded[i % len(encoded)], stays).reshape(-1)
        return kept, (fitted[np.arange(count) % len(fitted)] if arguments.get("paste", False) else None)

    def _given_codes(self, codes: npt.ArrayLike, count: int, size: tuple[int, int]) -> Int64Array:
        array = np.asarray(codes)
        spec = self._manifest.model.autoencoder
        grid = size[0] // spec.factor, size[1] // spec.factor
        if array.ndim == 2:
            array = array[None]
        if array.dtype.kind not in "iu" or array.shape[1:] != grid or not len(array):
            raise ShapeError(
                f"kept_codes: found {array.dtype} {array.shape}, wanted integers (B, {grid[0]}, {grid[1]})"
            )
        if array.min() < FREE or array.max() >= spec.codebook_size:
            raise ShapeError(
                f"kept_codes: found {array.min()} to {array.max()}, wanted 0 to {spec.codebook_size - 1}, or {FREE} "
                "where a code is drawn"
            )
        return array.reshape(len(array), -1)[np.arange(count) % len(array)].astype(np.int64)


def _rows(array: npt.ArrayLike | None, *, grid: bool = False) -> int:
    """Return how many pictures an argument is about; a single grid of codes has two axes."""
    if array is None:
        return 1
    shape = np.shape(array)
    return 1 if grid and len(shape) == 2 else max(1, shape[0] if shape else 1)
