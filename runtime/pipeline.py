"""The public runtime: a bundle opened, pictures encoded, decoded, scored and generated."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack, cast

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import BackendUnavailableError, BundleError, Cancelled, ShapeError
from trt_vqgan.manifest import Manifest, bundle_folder, read_manifest, verify_files
from trt_vqgan.runtime.backend_choice import BACKENDS, CPU_CHOICE, BackendChoice, choose_backend
from trt_vqgan.runtime.buffers import host_array
from trt_vqgan.runtime.code_generator import FREE, CodeGenerator
from trt_vqgan.runtime.condition_encoder import ClassIds, ConditionEncoder
from trt_vqgan.runtime.demos import demo_bundle
from trt_vqgan.runtime.editing import paste
from trt_vqgan.runtime.fitting import Fit, check_fit
from trt_vqgan.runtime.large_pictures import Windows, picture_size, window_condition
from trt_vqgan.runtime.memory import check_picture_memory
from trt_vqgan.runtime.opening import open_models
from trt_vqgan.runtime.picture_arrays import picture_maps
from trt_vqgan.runtime.requests import (
    GenerateArguments,
    OnPreview,
    OnProgress,
    Preview,
    Progress,
    Request,
    RequestReader,
)
from trt_vqgan.runtime.sampler import Sampling
from trt_vqgan.runtime.sessions import check_onnxruntime
from trt_vqgan.runtime.threads import resolve_threads
from trt_vqgan.runtime.tiled_decoder import decode_tiled, default_overlap, default_tile
from trt_vqgan.runtime.window_generator import WindowGenerator, WindowReport
from trt_vqgan.spec import ModelSpec

__all__ = ["BACKENDS", "OnPreview", "OnProgress", "Pipeline", "Preview", "Progress", "Result", "load"]

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
ImageArray = npt.NDArray[np.uint8]

UNFINISHED_GREY = 127  # of a preview, where no code is drawn yet


@dataclass(frozen=True, kw_only=True)
class Result:
    """Pictures that were generated.

    Attributes
    ----------
    images : uint8 (N, H, W, 3).
    codes : int64 (N, h, w), raster order.
    classes : int64 (N,) for a class model, else None.
    sampling : how the codes were drawn.
    seed : of the random numbers.
    window_report : what windows cost, for pictures larger than the training size.
    """

    images: ImageArray
    codes: Int64Array
    classes: Int64Array | None
    sampling: Sampling
    seed: int
    window_report: WindowReport


def load(
    bundle: str | os.PathLike[str] | None = None,
    *,
    backend: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    deterministic: bool = False,
    picture_precision: str = "auto",
    stream: object = None,
) -> Pipeline:
    """Return a pipeline of the bundle in a folder; the demo that ships with the package for None.

    Parameters
    ----------
    backend : "native" (our CPU kernels, compiled on first use), "onnxruntime", "tensorrt" or "cuda" (our own kernels),
        or "auto": on a GPU where all that a bundle with graphs for GPUs needs is there, else on the CPU through our
        kernels where they have been built, else through ONNX Runtime. `Pipeline.backend` says what runs.
    device : "cpu", "cuda" or "cuda:N"; by default what suits the backend.
    threads : threads of each session; by default the processors that this process may use.
    deterministic : the same codes for the same bundle, seed and picture index, however many pictures run beside it and
        in whatever order. On the CPU that is so without asking. On a GPU it takes backend "cuda" ("auto" then means
        that): sums are added in one order, eight rows at a time, prefixes a picture at a time and never shared, which
        makes large batches slower; pictures larger than the training size aren't promised there. Codes still differ
        between GPUs, and between a GPU and the CPU.
    picture_precision : of the decoder's convolutions in backend "native": "fp32"; "bf16", where the processor has AMX;
        or "auto", bf16 there for bundles whose decoder is stored in float16 or whose transformer has 8 or 4 bits, else
        fp32. It changes pixels, by less than can be seen, and never codes. `Pipeline.precision` says what runs.
    stream : on a GPU, a CUDA stream of the caller's (its handle, or an object with ``__cuda_stream__``): the work of
        each call begins behind what is in it then, and what is put there afterwards runs behind the work.

    Raises
    ------
    BundleError : the bundle is missing, incomplete, changed, or of another schema.
    BackendUnavailableError : an unknown backend or device, one that can't run here (says all that is missing), or
        onnxruntime and onnxruntime-gpu installed over each other.
    """
    check_onnxruntime()
    chosen = bundle if bundle is not None else demo_bundle()
    folder, manifest = bundle_folder(chosen), read_manifest(chosen)
    choice = choose_backend(
        backend, device, folder, manifest, deterministic=deterministic, picture_precision=picture_precision
    )
    if stream is not None:
        choice = _with_stream(choice, stream)
    verify_files(folder, manifest)
    return Pipeline(folder, manifest, threads=resolve_threads(threads), choice=choice)


def _with_stream(choice: BackendChoice, stream: object) -> BackendChoice:
    from trt_vqgan.runtime.gpu.caller_streams import stream_handle

    if choice.gpu is None:
        raise BackendUnavailableError(f"stream: found one, and backend {choice.name} on the CPU, which has no streams")
    return dataclasses.replace(choice, stream=stream_handle(stream))


class Pipeline:
    """One opened bundle.

    All methods may be called from several threads at once: sessions are shared and take concurrent runs, caches belong
    to a call. After `close` every method raises BundleError.

    Parameters
    ----------
    folder, manifest : the bundle, already checked; use `load`.
    threads : threads of each session's pool.
    choice : what runs it, and where.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, threads: int, choice: BackendChoice = CPU_CHOICE) -> None:
        self.manifest = manifest
        self.threads = threads
        self.backend: str = choice.name
        self._folder = folder
        self._closed = False
        self._models = open_models(folder, manifest, choice, threads=threads)
        self._autoencoder = self._models.autoencoder
        self._conditions = ConditionEncoder(manifest, self._models.condition_encoder)
        self._requests = RequestReader(
            manifest, self._conditions, self.encode, engine=lambda: self._checked_generator().engine
        )

    @property
    def backend_details(self) -> str:
        """What runs what, for people, such as "onnxruntime" or "cuda (…; encoder and decoder: onnxruntime, CPU)"."""
        models = self._models
        networks = self._autoencoder.networks.describe()
        if not models.transformer and models.on_gpu is None and networks == self.backend:
            return self.backend
        parts = [models.transformer] if models.transformer else []
        parts.append(f"encoder and decoder: {networks}")
        return f"{self.backend} ({'; '.join(parts)})"

    @property
    def spec(self) -> ModelSpec:
        """What the model is."""
        return self.manifest.model

    @property
    def bundle_id(self) -> str:
        """Identity of what the bundle computes, 16 hexadecimal digits."""
        return self.manifest.bundle_id

    @property
    def precision(self) -> str:
        """Precision of the graphs, such as "fp32" or "decoder fp16 weights, transformer int8"."""
        precision = dict(self.manifest.precision)
        if self._models.on_gpu is not None:
            precision |= dict.fromkeys(self._models.on_gpu.graphs(precision), "fp16")
        if self._models.decoder_precision:
            precision["decoder"] = self._models.decoder_precision
        kinds = set(precision.values())
        if len(kinds) == 1:
            return kinds.pop()
        return ", ".join(f"{graph} {kind}" for graph, kind in sorted(precision.items()))

    def close(self) -> None:
        """Release sessions and weights; every later call raises BundleError."""
        self._closed = True
        self._models.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- pictures and codes -------------------------------------------------------------------------------------------

    def encode(self, images: npt.ArrayLike, *, out: object = None) -> Int64Array:
        """Return the codes of pictures, int64 (B, h, w) in raster order.

        Parameters
        ----------
        images : uint8 (B, H, W, C) or (H, W, C), or float32 (B, C, H, W) in [-1, 1] as the encoder reads it; H and W
            multiples of the factor. Anything with the buffer protocol or DLPack in host memory; contiguous float32 is
            read where it lies.
        out : int64 (B, h, w), C-contiguous, in the caller's memory: filled and returned. After an error it may be
            filled in part.

        Raises
        ------
        ShapeError : another shape, dtype or size, of ``out`` too.
        """
        self._check_open()
        return self._autoencoder.encode(picture_maps(self._on_host(images), self.spec.autoencoder), out=out)

    def decode(self, codes: npt.ArrayLike, *, tiles: bool = False, out: object = None) -> ImageArray:
        """Return pictures uint8 (B, H, W, C) of codes, integers (B, h, w) or (h, w) in raster order.

        Parameters
        ----------
        codes : anything with the buffer protocol or DLPack in host memory; contiguous int64 is read where it lies.
        tiles : decode in overlapping tiles, in bounded memory: nearly the same pixels.
        out : uint8 (B, H, W, C), C-contiguous, in the caller's memory: filled and returned. After an error it may be
            filled in part.

        Raises
        ------
        ShapeError : another shape or dtype, of ``out`` too, a code outside the codebook, or more memory needed than
            there is.
        """
        self._check_open()
        array = host_array(self._on_host(codes), "codes")
        if not np.issubdtype(array.dtype, np.integer):
            raise ShapeError(f"decode: found {array.dtype}, wanted integer codes")
        grids = (array[None] if array.ndim == 2 else array).astype(np.int64, copy=False)
        if grids.ndim == 3 and grids.size:
            factor = self.spec.autoencoder.factor
            check_picture_memory(self.spec.autoencoder, grids.shape[2] * factor, grids.shape[1] * factor, tiled=tiles)
        return self._decode_all(grids, tiles=tiles, out=out)

    def encode_condition(
        self,
        *,
        class_id: ClassIds | None = None,
        depth: npt.ArrayLike | None = None,
        segmentation: npt.ArrayLike | None = None,
        coordinates: npt.ArrayLike | None = None,
        layout: object = None,
        image: npt.ArrayLike | None = None,
        shift_labels: bool = False,
        fit: Fit = "crop",
        size: tuple[int, int] | None = None,
    ) -> Int64Array:
        """Return a condition as tokens: int64 (B, L), or (B, h, w) in raster order.

        Exactly the one that the model takes must be given; an unconditional model takes none and gives (1, 1), and a
        coordinate model makes the coordinates of a whole picture where none are given.

        Parameters
        ----------
        class_id : id, name or a sequence of them.
        depth : float (H, W) or (B, H, W) of any scale and size, or (B, 1, H, W) in [-1, 1], which is taken as it is.
        segmentation : integer label ids (H, W) or (B, H, W) of any size, or one-hot (B, labels, H, W).
        coordinates : float (B, 1, H, W) in [0, 1].
        layout : boxes, as `trt_vqgan.runtime.layouts.read_layouts` takes them.
        image : pictures as `encode` takes them, of any size, for models conditioned on a picture.
        shift_labels : read label ids as the published COCO-Stuff models do: (id + 1) modulo 256, so that 255, no label,
            becomes 0.
        fit : how maps of another size than the model's are fitted to it: "crop" (the middle, as published), "pad" or
            "stretch".
        size : (width, height) in pixels of a picture larger than the training size.

        Raises
        ------
        ConditionError : another kind than the model's, or none where it needs one.
        ShapeError : a wrong shape, dtype or value range.
        """
        self._check_open()
        given: dict[str, Any] = {
            "class_id": class_id,
            "depth": depth,
            "segmentation": segmentation,
            "coordinates": coordinates,
            "layout": layout,
            "image": image,
        }
        given = {name: self._on_host(value) for name, value in given.items()}
        return self._conditions.encode(
            given, size=picture_size(size, self.spec), fit=check_fit(fit), shift_labels=shift_labels
        )

    def logits(self, cond: npt.ArrayLike, codes: npt.ArrayLike) -> FloatArray:
        """Return teacher-forced logits float32 (B, h·w, V): row i predicts code i given the condition and codes before.

        Parameters
        ----------
        cond : condition tokens, int (B, L) or (B, h, w) in raster order; B may be 1 for all.
        codes : int (B, h, w) or (B, h·w), raster order. Rows of the result follow the model's own order.
        """
        generator = self._checked_generator()
        tokens = self._conditions.tokens(self._on_host(cond))
        grid = self._codes(codes)
        if len(tokens) != len(grid) and len(tokens) == 1:
            tokens = np.repeat(tokens, len(grid), axis=0)
        if len(tokens) != len(grid):
            raise ShapeError(f"logits: found {len(tokens)} conditions for {len(grid)} pictures, wanted as many, or one")
        return generator.logits(tokens, grid)

    def score(self, images_or_codes: npt.ArrayLike, cond: npt.ArrayLike) -> FloatArray:
        """Return the negative log-likelihood of each code, nats, float32 (B, h·w) in the model's own order.

        Parameters
        ----------
        images_or_codes : uint8 pictures (B, H, W, C) of the training size, or integer codes (B, h, w).
        cond : condition tokens, int (B, L) or (B, h, w); B may be 1 for all.
        """
        array = host_array(self._on_host(images_or_codes), "images_or_codes")
        codes = self._codes(self.encode(array) if array.ndim == 4 else array)
        logits = self.logits(cond, codes)
        order = self._checked_generator().order
        peak = logits.max(axis=2, keepdims=True)
        total = np.log(np.exp((logits - peak).astype(np.float64)).sum(axis=2)) + peak[:, :, 0]
        chosen = np.take_along_axis(logits, codes[:, order, None], axis=2)[:, :, 0]
        nll: FloatArray = (total - chosen).astype(np.float32)
        return nll

    # --- generation ---------------------------------------------------------------------------------------------------

    def generate(self, **arguments: Unpack[GenerateArguments]) -> Result:
        """Return new pictures.

        Parameters
        ----------
        n : pictures; by default one a condition (or one an ``init``). Conditions and ``init`` are taken in turn.
        seed : from 0 to 2**64 - 1. Picture i of a seed has the same codes whatever is made beside it.
        class_id, depth, segmentation, coordinates, layout, image : the model's condition, as `encode_condition` takes
            it. A class model without one takes its classes in turn.
        condition_codes : the condition as tokens instead, int (B, L) or (B, h, w).
        shift_labels : of ``segmentation``, as `encode_condition` says.
        fit : how maps and ``init`` of another size are fitted: "crop" (as published), "pad" or "stretch".
        init : uint8 (H, W, C) or (B, H, W, C): pictures whose codes are kept in part.
        keep : what is kept of ``init``: bool (H, W) over its pixels or (h, w) over its codes. A code is kept only if
            all its pixels are. What ``fit="pad"`` adds is never kept.
        resample : share of codes, above 0 and at most 1, that are drawn again, chosen by the seed; with ``keep``, of
            those that it doesn't name.
        paste : take the kept codes' pixels from ``init``, blended over `editing.SEAM_PIXELS` towards drawn ones.
        kept_codes : instead of ``init``: int (h, w) or (B, h, w), -1 where a code is drawn.
        guidance : classifier-free guidance: logits = without + guidance x (with - without the class). For class models
            whose bundle names a class that stands for none; costs a second row a picture.
        temperature, top_k, top_p : the bundle's defaults where None.
        greedy : take the likeliest code each time.
        batch_size : pictures made at once, 8 by default; bounds memory, never changes a picture.
        first_picture : number of the first picture.
        on_progress : called after each step with a `Progress`; returns False to cancel.
        on_preview : called with a `Preview` of each picture after every ``preview_every`` codes (by default a row of
            the grid); returns False to cancel. Each costs a decode. Models that draw all codes at once have none.
        size : (width, height) in pixels, multiples of the factor, at least the training size: a window of that size
            slides over the larger grid, by the published rule.
        window_plan : "exact" shares work between windows, "plain" computes each by itself; the same codes.
        window_shift : codes between two windows, 1 as published; up to half a window, faster and an approximation.
        memory_bytes : bound on the windows' caches, by default three quarters of the available memory. Within it fewer
            pictures are made at once, and beyond it windows are computed again, which `Result.window_report` says.
        decode_tiles : decode in overlapping tiles, in bounded memory: nearly the same pixels.

        Raises
        ------
        ConditionError, ShapeError : a wrong condition or setting.
        Cancelled : ``on_progress`` or ``on_preview`` returned False.
        """
        request = self.request(**arguments)
        made = list(self.run(request))
        is_class = self._conditions.condition.kind == "class"
        return Result(
            images=np.stack([picture for _, _, picture in made]),
            codes=np.stack([codes for _, codes, _ in made]),
            classes=request.conditions[:, 0].copy() if is_class else None,
            sampling=request.sampling,
            seed=request.seed,
            window_report=request.window_report,
        )

    def generate_stream(self, **arguments: Unpack[GenerateArguments]) -> Iterator[tuple[int, Int64Array, ImageArray]]:
        """Return an iterator of (picture number, codes int64 (h, w), picture uint8 (H, W, C)), as batches are finished.

        Takes what `generate` takes. Nothing is generated before the first item is asked for; stopping early drops only
        the batch under way. Arguments are checked, and conditions encoded, at once.
        """
        return self.run(self.request(**arguments))

    def request(self, **arguments: Unpack[GenerateArguments]) -> Request:
        """Return what `generate` would do with these arguments: conditions and kept codes made, settings filled in.

        Raises
        ------
        ConditionError, ShapeError : a wrong condition or setting.
        """
        self._check_open()
        on_host = {name: self._on_host(value) for name, value in arguments.items()}
        return self._requests.read(cast(GenerateArguments, on_host))

    def run(self, request: Request) -> Iterator[tuple[int, Int64Array, ImageArray]]:
        """Return an iterator over the pictures of a request, as `generate_stream`."""
        return self._make(self._checked_generator(), request)

    def _make(self, generator: CodeGenerator, request: Request) -> Iterator[tuple[int, Int64Array, ImageArray]]:
        for start in range(0, request.count, request.batch_size):
            batch = _Batch(self, generator, request, start)
            codes = batch.draw()
            for i in range(len(codes)):
                picture = self.finish(request, start + i, codes[i])
                batch.report(codes[i].size, finished=start + i + 1)
                yield batch.pictures[i], codes[i], picture

    def draw(self, request: Request) -> Iterator[tuple[int, Int64Array]]:
        """Return an iterator of (picture number, codes int64 (h, w)) of a request; no picture is decoded."""
        return self._draw(self._checked_generator(), request)

    def _draw(self, generator: CodeGenerator, request: Request) -> Iterator[tuple[int, Int64Array]]:
        for start in range(0, request.count, request.batch_size):
            batch = _Batch(self, generator, request, start)
            yield from zip(batch.pictures, batch.draw(), strict=True)

    def finish(self, request: Request, index: int, codes: Int64Array) -> ImageArray:
        """Return picture ``index`` of a request, uint8 (H, W, C), from its codes int64 (h, w)."""
        self._check_open()
        picture = self._decode(codes, tiles=request.decode_tiles)
        if request.originals is None or request.kept is None:
            return picture
        keep = (request.kept[index] != FREE).reshape(codes.shape)
        return paste(picture, request.originals[index], keep)

    @property
    def code_generator(self) -> CodeGenerator:
        """What draws this model's codes.

        Raises
        ------
        ConditionError : the bundle is a VQGAN alone.
        """
        return self._checked_generator()

    def _decode(self, codes: Int64Array, *, tiles: bool) -> ImageArray:
        """Return the picture uint8 (H, W, C) of codes int64 (h, w)."""
        picture: ImageArray = self._decode_all(codes[None], tiles=tiles)[0]
        return picture

    def _decode_all(self, codes: Int64Array, *, tiles: bool, out: object = None) -> ImageArray:
        """Return pictures uint8 (B, H, W, C) of codes int64 (B, h, w), in ``out`` where it is given."""
        spec = self.spec.autoencoder
        if tiles:
            return decode_tiled(
                self._autoencoder, codes, tile=default_tile(spec), overlap=default_overlap(spec), out=out
            )
        return self._autoencoder.decode(codes, out=out)

    def decode_unfinished(self, codes: Int64Array) -> ImageArray:
        """Return the picture uint8 (H, W, C) of codes (h, w) of which some are `FREE`: those are grey.

        The decoder sees the code nearest to the codebook's mean there, and its pixels are painted over.
        """
        drawn = codes != FREE
        picture: ImageArray = self._autoencoder.decode(np.where(drawn, codes, self._autoencoder.mean_code)[None])[0]
        factor = self.spec.autoencoder.factor
        picture[~drawn.repeat(factor, axis=0).repeat(factor, axis=1)] = UNFINISHED_GREY
        return picture

    # --- checks -------------------------------------------------------------------------------------------------------

    def _codes(self, codes: npt.ArrayLike) -> Int64Array:
        """Return codes of training-size pictures as int64 (B, h·w), raster order."""
        array = host_array(self._on_host(codes), "codes")
        count, size = self.spec.num_codes, self.spec.autoencoder.codebook_size
        side = self.spec.autoencoder.latent_size
        if not np.issubdtype(array.dtype, np.integer) or not (
            array.shape[1:] == (count,) or array.shape[1:] == (side, side)
        ):
            raise ShapeError(
                f"codes: found {array.dtype} {array.shape}, wanted integers (B, {side}, {side}) or (B, {count})"
            )
        if array.size and (array.min() < 0 or array.max() >= size):
            raise ShapeError(f"codes: found codes from {array.min()} to {array.max()}, wanted 0 to {size - 1}")
        return array.reshape(len(array), count).astype(np.int64)

    def _checked_generator(self) -> CodeGenerator:
        self._check_open()
        self._conditions.condition  # noqa: B018  raises for a VQGAN alone
        generator = self._models.generator
        if generator is None:
            raise BundleError("the pipeline is closed; load the bundle again")
        return generator

    def _on_host(self, value: Any) -> Any:
        """Return ``value``, copied to the host where it is an array on the GPU that this runs on."""
        return value if self._models.on_gpu is None else self._models.on_gpu.on_host(value)

    def _check_open(self) -> None:
        if self._closed:
            raise BundleError("the pipeline is closed; load the bundle again")


class _Batch:
    """The pictures from ``start`` on that are made at once."""

    def __init__(self, pipeline: Pipeline, generator: CodeGenerator, request: Request, start: int) -> None:
        self._pipeline, self._generator, self._request = pipeline, generator, request
        self._rows = slice(start, min(start + request.batch_size, request.count))
        first = request.first_picture
        self.pictures = list(range(first + self._rows.start, first + self._rows.stop))
        factor = pipeline.spec.autoencoder.factor
        self._grid = request.size[0] // factor, request.size[1] // factor
        self._codes_a_picture = self._grid[0] * self._grid[1]

    def draw(self) -> Int64Array:
        """Return the codes int64 (B, h, w)."""
        request = self._request
        if request.windows is not None:
            return self._draw_windows(request, request.windows)
        return self._generator.generate(
            request.conditions[self._rows],
            sampling=request.sampling,
            seed=request.seed,
            pictures=np.array(self.pictures, dtype=np.int64),
            kept=None if request.kept is None else request.kept[self._rows],
            guidance=request.guidance,
            on_step=self.report,
            on_codes=None if request.on_preview is None else self._preview,
            codes_every=request.preview_every,
        )

    def _draw_windows(self, request: Request, windows: Windows) -> Int64Array:
        rows, shape = self._rows, (len(self.pictures), *self._grid)
        layouts = [windows.layouts[i % len(windows.layouts)] for i in range(rows.start, rows.stop) if windows.layouts]
        return WindowGenerator(self._pipeline.spec, self._generator.engine).generate(
            window_condition(self._pipeline.spec, windows, request.conditions[rows], layouts, self._grid),
            kept=np.full(shape, FREE) if request.kept is None else request.kept[rows].reshape(shape),
            sampling=request.sampling,
            seed=request.seed,
            pictures=np.array(self.pictures, dtype=np.int64),
            plan=windows.plan,
            shift=windows.shift,
            memory_bytes=windows.memory_bytes,
            guidance=request.guidance,
            on_step=self.report,
            on_codes=None if request.on_preview is None else self._preview,
            codes_every=request.preview_every,
            report=request.window_report,
        )

    def report(self, done: int, finished: int | None = None) -> None:
        """Tell how far the batch is: ``done`` codes of each picture, ``finished`` pictures of all."""
        request = self._request
        if request.on_progress is None:
            return
        before = self._rows.start * self._codes_a_picture
        progress = Progress(
            done_codes=before + done * len(self.pictures),
            total_codes=request.count * self._codes_a_picture,
            pictures_done=self._rows.start if finished is None else finished,
        )
        if request.on_progress(progress) is False:
            self._cancel("on_progress", progress.pictures_done)

    def _preview(self, codes: Int64Array) -> None:
        request = self._request
        assert request.on_preview is not None
        for picture, grid in zip(self.pictures, codes, strict=True):
            image = self._pipeline.decode_unfinished(grid)
            preview = Preview(picture=picture, done_codes=int((grid != FREE).sum()), codes=grid, image=image)
            if request.on_preview(preview) is False:
                self._cancel("on_preview", self._rows.start)

    def _cancel(self, by: str, finished: int) -> None:
        raise Cancelled(f"cancelled by {by} after {finished} of {self._request.count} pictures")
