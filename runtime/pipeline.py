"""The public runtime: a bundle opened, pictures encoded, decoded, scored and generated."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

import trt_vqgan
from trt_vqgan.errors import BackendUnavailableError, BundleError, Cancelled, ConditionError, ShapeError
from trt_vqgan.manifest import Manifest, read_manifest, verify_files
from trt_vqgan.runtime import conditions as condition_inputs
from trt_vqgan.runtime.autoencoder import Autoencoder, from_uint8
from trt_vqgan.runtime.code_generator import CodeGenerator
from trt_vqgan.runtime.sampler import Sampling
from trt_vqgan.runtime.sessions import check_onnxruntime
from trt_vqgan.runtime.threads import resolve_threads
from trt_vqgan.runtime.transformer import TransformerEngine
from trt_vqgan.spec import AutoencoderSpec, ConditionSpec, ModelSpec

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
ImageArray = npt.NDArray[np.uint8]
ClassIds = int | str | Sequence[int | str]

DEMO_BUNDLE = Path(trt_vqgan.__file__).parent / "demo" / "landscape_class"
BACKENDS = ("auto", "onnxruntime")
DEFAULT_BATCH_SIZE = 8
MAX_PICTURES = 1 << 32  # the random numbers count pictures in 32 bits


@dataclass(frozen=True, kw_only=True)
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


OnProgress = Callable[[Progress], object]


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
    """

    images: ImageArray
    codes: Int64Array
    classes: Int64Array | None
    sampling: Sampling
    seed: int


def load(
    bundle: str | os.PathLike[str] | None = None, *, backend: str = "auto", threads: int | None = None
) -> Pipeline:
    """Return a pipeline of the bundle in a folder; the demo that ships with the package for None.

    Parameters
    ----------
    backend : "auto" or "onnxruntime". Both run on the CPU through ONNX Runtime; `Pipeline.backend` says what runs.
    threads : threads of each session; by default the processors that this process may use.

    Raises
    ------
    BundleError : the bundle is missing, incomplete, changed, or of another schema.
    BackendUnavailableError : an unknown backend, or onnxruntime and onnxruntime-gpu installed over each other.
    """
    if backend not in BACKENDS:
        raise BackendUnavailableError(f"backend: found {backend!r}, wanted one of {', '.join(BACKENDS)}")
    check_onnxruntime()
    folder = Path(bundle) if bundle is not None else DEMO_BUNDLE
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    return Pipeline(folder, manifest, threads=resolve_threads(threads))


class Pipeline:
    """One opened bundle.

    All methods may be called from several threads at once: sessions are shared and take concurrent runs, caches belong
    to a call. After `close` every method raises BundleError.

    Parameters
    ----------
    folder, manifest : the bundle, already checked; use `load`.
    threads : threads of each session's pool.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, threads: int) -> None:
        self.manifest = manifest
        self.threads = threads
        self.backend = "onnxruntime"
        self._folder = folder
        self._closed = False
        self._autoencoder = self._open_autoencoder(self.spec.autoencoder, "encoder", "decoder", "codebook.npy")
        self._condition_encoder: Autoencoder | None = None
        self._generator: CodeGenerator | None = None
        condition = self.spec.condition
        if condition is not None and condition.shares_first_stage:
            self._condition_encoder = self._autoencoder
        elif condition is not None and condition.autoencoder is not None:
            self._condition_encoder = self._open_autoencoder(
                condition.autoencoder, "condition_encoder", None, "condition_codebook.npy"
            )
        if self.spec.transformer is not None:
            path = self._graph("transformer")
            assert path is not None
            engine = TransformerEngine(path, self.spec.transformer, threads=threads)
            self._generator = CodeGenerator(self.spec, engine)

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
        kinds = set(self.manifest.precision.values())
        if len(kinds) == 1:
            return kinds.pop()
        return ", ".join(f"{graph} {kind}" for graph, kind in sorted(self.manifest.precision.items()))

    def close(self) -> None:
        """Release sessions and weights; every later call raises BundleError."""
        self._closed = True
        self._autoencoder.close()
        if self._condition_encoder is not None:
            self._condition_encoder.close()
        self._generator = None

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- pictures and codes -------------------------------------------------------------------------------------------

    def encode(self, images: npt.ArrayLike) -> Int64Array:
        """Return the codes of pictures, int64 (B, h, w) in raster order.

        Parameters
        ----------
        images : uint8 (B, H, W, C) or (H, W, C), or float32 (B, C, H, W) in [-1, 1] as the encoder reads it; H and W
            multiples of the factor.

        Raises
        ------
        ShapeError : another shape, dtype or size.
        """
        self._check_open()
        return self._autoencoder.encode(_pictures(images, self.spec.autoencoder))

    def decode(self, codes: npt.ArrayLike) -> ImageArray:
        """Return pictures uint8 (B, H, W, C) of codes, integers (B, h, w) or (h, w) in raster order.

        Raises
        ------
        ShapeError : another shape or dtype, or a code outside the codebook.
        """
        self._check_open()
        array = np.asarray(codes)
        if not np.issubdtype(array.dtype, np.integer):
            raise ShapeError(f"decode: found {array.dtype}, wanted integer codes")
        return self._autoencoder.decode((array[None] if array.ndim == 2 else array).astype(np.int64))

    def encode_condition(
        self,
        *,
        class_id: ClassIds | None = None,
        depth: npt.ArrayLike | None = None,
        segmentation: npt.ArrayLike | None = None,
        coordinates: npt.ArrayLike | None = None,
        image: npt.ArrayLike | None = None,
    ) -> Int64Array:
        """Return a condition as tokens: int64 (B, 1), or (B, h, w) in raster order.

        Exactly the one that the model takes must be given; an unconditional model takes none and gives (1, 1), and a
        coordinate model makes the coordinates of a whole picture where none are given.

        Parameters
        ----------
        class_id : id, name or a sequence of them.
        depth : float (H, W) or (B, H, W) of any scale, or (B, 1, H, W) in [-1, 1].
        segmentation : integer label ids (H, W) or (B, H, W), or one-hot (B, labels, H, W).
        coordinates : float (B, 1, H, W) in [0, 1].
        image : pictures as `encode` takes them, for models conditioned on a picture.

        Raises
        ------
        ConditionError : another kind than the model's, or none where it needs one.
        ShapeError : a wrong shape, dtype or value range.
        """
        self._check_open()
        given = {
            "class_id": class_id,
            "depth": depth,
            "segmentation": segmentation,
            "coordinates": coordinates,
            "image": image,
        }
        condition = self._condition()
        self._check_kind(condition, {name for name, value in given.items() if value is not None})
        if condition.kind == "unconditional":
            return np.array([[condition.sos_token]], dtype=np.int64)
        if condition.kind == "class":
            assert class_id is not None
            return condition_inputs.class_tokens(class_id, condition, self.manifest.class_names)
        if condition.kind == "coordinates":
            assert self.spec.transformer is not None
            side = self.spec.autoencoder.resolution
            chosen = coordinates if coordinates is not None else condition_inputs.position_coordinates(side, side)
            return condition_inputs.coordinate_tokens(chosen, condition, self.spec.transformer.vocab_size)
        if condition.kind == "boxes":
            raise ConditionError("this model is conditioned on box tokens: give them as condition_codes (B, 92)")
        return self._encode_map(condition, given)

    def _encode_map(self, condition: ConditionSpec, given: dict[str, Any]) -> Int64Array:
        assert self._condition_encoder is not None
        spec = self._condition_encoder.spec
        value = given[_map_option(condition) or "image"]
        if spec.modality == "depth":
            maps = condition_inputs.depth_map(value)
        elif spec.modality == "segmentation":
            maps = condition_inputs.segmentation_map(value, spec.in_channels)
        else:
            maps = _pictures(value, spec)
        if condition.downsample_size:
            maps = condition_inputs.resize_nearest(maps, condition.downsample_size)
        return self._condition_encoder.encode(maps)

    def logits(self, cond: npt.ArrayLike, codes: npt.ArrayLike) -> FloatArray:
        """Return teacher-forced logits float32 (B, h·w, V): row i predicts code i given the condition and codes before.

        Parameters
        ----------
        cond : condition tokens, int (B, L) or (B, h, w) in raster order; B may be 1 for all.
        codes : int (B, h, w) or (B, h·w), raster order. Rows of the result follow the model's own order.
        """
        generator = self._checked_generator()
        tokens = self._tokens(cond)
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
        array = np.asarray(images_or_codes)
        codes = self._codes(self.encode(array) if array.ndim == 4 else array)
        logits = self.logits(cond, codes)
        order = self._checked_generator().order
        peak = logits.max(axis=2, keepdims=True)
        total = np.log(np.exp((logits - peak).astype(np.float64)).sum(axis=2)) + peak[:, :, 0]
        chosen = np.take_along_axis(logits, codes[:, order, None], axis=2)[:, :, 0]
        nll: FloatArray = (total - chosen).astype(np.float32)
        return nll

    # --- generation ---------------------------------------------------------------------------------------------------

    def generate(
        self,
        *,
        n: int | None = None,
        seed: int = 0,
        class_id: ClassIds | None = None,
        condition_codes: npt.ArrayLike | None = None,
        depth: npt.ArrayLike | None = None,
        segmentation: npt.ArrayLike | None = None,
        coordinates: npt.ArrayLike | None = None,
        image: npt.ArrayLike | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        greedy: bool = False,
        batch_size: int | None = None,
        first_picture: int = 0,
        on_progress: OnProgress | None = None,
    ) -> Result:
        """Return ``n`` new pictures.

        Parameters
        ----------
        n : pictures; one a condition by default. Conditions are taken in turn.
        seed : from 0 to 2**64 - 1. Picture i of a seed has the same codes whatever is made beside it.
        class_id, depth, segmentation, coordinates, image : the model's condition, as `encode_condition` takes it. A
            class model without one takes its classes in turn.
        condition_codes : the condition as tokens instead, int (B, L) or (B, h, w).
        temperature, top_k, top_p : the bundle's defaults where None.
        greedy : take the likeliest code each time.
        batch_size : pictures made at once; bounds memory, never changes a picture.
        first_picture : number of the first picture.
        on_progress : called after each step with a `Progress`; returns False to cancel.

        Raises
        ------
        ConditionError, ShapeError : a wrong condition or setting.
        Cancelled : ``on_progress`` returned False.
        """
        sampling = self._sampling(temperature, top_k, top_p, greedy)
        tokens = self._generation_conditions(
            n, class_id, condition_codes, depth=depth, segmentation=segmentation, coordinates=coordinates, image=image
        )
        made = list(self._stream(tokens, sampling, seed, batch_size, first_picture, on_progress))
        condition = self._condition()
        return Result(
            images=np.stack([picture for _, _, picture in made]),
            codes=np.stack([codes for _, codes, _ in made]),
            classes=tokens[:, 0].copy() if condition.kind == "class" else None,
            sampling=sampling,
            seed=seed,
        )

    def generate_stream(
        self,
        *,
        n: int | None = None,
        seed: int = 0,
        class_id: ClassIds | None = None,
        condition_codes: npt.ArrayLike | None = None,
        depth: npt.ArrayLike | None = None,
        segmentation: npt.ArrayLike | None = None,
        coordinates: npt.ArrayLike | None = None,
        image: npt.ArrayLike | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        greedy: bool = False,
        batch_size: int | None = None,
        first_picture: int = 0,
        on_progress: OnProgress | None = None,
    ) -> Iterator[tuple[int, Int64Array, ImageArray]]:
        """Return an iterator of (picture number, codes int64 (h, w), picture uint8 (H, W, C)), as batches are finished.

        Takes what `generate` takes. Nothing is computed before the first item is asked for; stopping early drops only
        the batch under way. Arguments are checked at once.
        """
        sampling = self._sampling(temperature, top_k, top_p, greedy)
        tokens = self._generation_conditions(
            n, class_id, condition_codes, depth=depth, segmentation=segmentation, coordinates=coordinates, image=image
        )
        return self._stream(tokens, sampling, seed, batch_size, first_picture, on_progress)

    def _stream(
        self,
        tokens: Int64Array,
        sampling: Sampling,
        seed: int,
        batch_size: int | None,
        first_picture: int,
        on_progress: OnProgress | None,
    ) -> Iterator[tuple[int, Int64Array, ImageArray]]:
        generator = self._checked_generator()
        size = DEFAULT_BATCH_SIZE if batch_size is None else batch_size
        if size < 1:
            raise ShapeError(f"batch_size: found {size}, wanted at least 1")
        if not 0 <= seed < 1 << 64:
            raise ShapeError(f"seed: found {seed}, wanted 0 to 2**64 - 1")
        if not 0 <= first_picture <= MAX_PICTURES - len(tokens):
            raise ShapeError(f"first_picture: found {first_picture}, wanted 0 to {MAX_PICTURES - len(tokens)}")
        return self._make(generator, tokens, sampling, seed, size, first_picture, on_progress)

    def _make(
        self,
        generator: CodeGenerator,
        tokens: Int64Array,
        sampling: Sampling,
        seed: int,
        size: int,
        first_picture: int,
        on_progress: OnProgress | None,
    ) -> Iterator[tuple[int, Int64Array, ImageArray]]:
        count = self.spec.num_codes
        total = len(tokens) * count
        for start in range(0, len(tokens), size):
            part = tokens[start : start + size]

            def report(done: int, start: int = start, rows: int = len(part), finished: int = start) -> None:
                if on_progress is None:
                    return
                progress = Progress(done_codes=start * count + done * rows, total_codes=total, pictures_done=finished)
                if on_progress(progress) is False:
                    raise Cancelled(f"cancelled by on_progress after {finished} of {len(tokens)} pictures")

            pictures = np.arange(first_picture + start, first_picture + start + len(part), dtype=np.int64)
            codes = generator.generate(part, sampling=sampling, seed=seed, pictures=pictures, on_step=report)
            for i in range(len(part)):
                self._check_open()
                picture = self._autoencoder.decode(codes[i : i + 1])[0]
                report(count, finished=start + i + 1)
                yield int(pictures[i]), codes[i], picture

    def _sampling(self, temperature: float | None, top_k: int | None, top_p: float | None, greedy: bool) -> Sampling:
        defaults = self.manifest.sampling
        default_p = 1.0 if defaults.top_p is None else defaults.top_p
        return Sampling(
            temperature=defaults.temperature if temperature is None else temperature,
            top_k=defaults.top_k if top_k is None else top_k,
            top_p=default_p if top_p is None else top_p,
            greedy=greedy,
        )

    def _generation_conditions(
        self, n: int | None, class_id: ClassIds | None, condition_codes: npt.ArrayLike | None, **maps: Any
    ) -> Int64Array:
        """Return one row of condition tokens a picture, int64 (n, L)."""
        self._check_open()
        condition = self._condition()
        if n is not None and n < 1:
            raise ShapeError(f"n: found {n}, wanted at least 1")
        if condition_codes is not None:
            if class_id is not None or any(value is not None for value in maps.values()):
                raise ConditionError("condition_codes is a condition of its own: leave the other one out")
            tokens = self._tokens(condition_codes)
        elif condition.kind == "class" and class_id is None and all(value is None for value in maps.values()):
            tokens = np.arange(min(n or 1, condition.num_classes), dtype=np.int64)[:, None]
        else:
            tokens = self._tokens(self.encode_condition(class_id=class_id, **maps))
        count = len(tokens) if n is None else n
        return tokens[np.arange(count) % len(tokens)]

    # --- checks -------------------------------------------------------------------------------------------------------

    def _tokens(self, cond: npt.ArrayLike) -> Int64Array:
        condition, transformer = self._condition(), self.spec.transformer
        assert transformer is not None
        tokens = condition_inputs.raw_tokens(cond, transformer.vocab_size)
        if tokens.shape[1] != condition.num_tokens:
            raise ShapeError(
                f"condition: found {tokens.shape[1]} tokens a picture, wanted {condition.num_tokens} for a picture of "
                f"{self.spec.autoencoder.resolution}x{self.spec.autoencoder.resolution} pixels"
            )
        return tokens

    def _codes(self, codes: npt.ArrayLike) -> Int64Array:
        """Return codes of training-size pictures as int64 (B, h·w), raster order."""
        array = np.asarray(codes)
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

    def _check_kind(self, condition: ConditionSpec, given: set[str]) -> None:
        wanted = _map_option(condition)
        foreign = sorted(given - ({wanted} if wanted else set()))
        if foreign:
            takes = f"it takes {wanted}" if wanted else "it takes no condition but condition_codes"
            raise ConditionError(f"this model ({condition.kind}) takes no {foreign[0]}; {takes}")
        if wanted and not given and condition.kind != "coordinates":
            raise ConditionError(f"this model needs a condition: give {wanted} (or condition_codes)")

    def _condition(self) -> ConditionSpec:
        if self.spec.condition is None:
            raise ConditionError(
                "this bundle is a VQGAN without a transformer: it can encode, decode and reconstruct, not generate"
            )
        return self.spec.condition

    def _checked_generator(self) -> CodeGenerator:
        self._check_open()
        self._condition()
        generator = self._generator
        if generator is None:
            raise BundleError("the pipeline is closed; load the bundle again")
        return generator

    def _check_open(self) -> None:
        if self._closed:
            raise BundleError("the pipeline is closed; load the bundle again")

    def _open_autoencoder(self, spec: AutoencoderSpec, encoder: str, decoder: str | None, codebook: str) -> Autoencoder:
        path = self._folder / codebook
        try:
            entries = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BundleError(f"{path}: can't be read ({error}); export the bundle again") from None
        wanted = (spec.codebook_size, spec.code_dim)
        if entries.shape != wanted or entries.dtype != np.float32:
            raise BundleError(f"{path}: found {entries.dtype} {entries.shape}, wanted float32 {wanted}")
        return Autoencoder(
            spec,
            encoder=self._graph(encoder),
            decoder=self._graph(decoder) if decoder is not None else None,
            codebook=entries,
            threads=self.threads,
        )

    def _graph(self, name: str) -> Path | None:
        entry = self.manifest.graphs.get(name)
        if entry is None:
            if name == "transformer":
                raise BundleError(f"bundle {self._folder}: the model has a transformer but no graph of it")
            return None
        return self._folder / entry.file


def _map_option(condition: ConditionSpec) -> str | None:
    """Return the name of the argument that carries this kind of condition."""
    if condition.kind == "class":
        return "class_id"
    if condition.kind == "coordinates":
        return "coordinates"
    if condition.kind == "autoencoder":
        return condition.modality or "image"
    return None


def _pictures(images: npt.ArrayLike, spec: AutoencoderSpec) -> FloatArray:
    array = np.asarray(images)
    channels = spec.in_channels
    if array.dtype == np.uint8:
        if array.ndim == 3:
            array = array[None]
        if array.ndim == 4 and array.shape[3] == channels:
            return from_uint8(array)
        raise ShapeError(f"images: found uint8 {array.shape}, wanted (B, H, W, {channels})")
    if array.dtype.kind == "f" and array.ndim == 4:
        return array.astype(np.float32)
    raise ShapeError(
        f"images: found {array.dtype} {array.shape}, wanted uint8 (B, H, W, {channels}) "
        f"or float32 (B, {channels}, H, W)"
    )
