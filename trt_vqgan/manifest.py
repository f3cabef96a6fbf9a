"""What a bundle says about itself: ``manifest.json``, read and written strictly.

A bundle is a folder. Its manifest names every other file with size and SHA-256, describes the model, and says what
made it. A name that leaves the folder, an unknown key, an unknown schema or a changed file is a BundleError.

Models that share files may lie in one folder, each with a manifest of its own name: the path of that manifest is then
the path of the bundle. The demos that ship with the package are kept so, with one VQGAN for all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from trt_vqgan.atomic_file import write_bytes
from trt_vqgan.errors import BundleError, SpecError
from trt_vqgan.spec import LayoutForm, ModelSpec, fitting_layout_forms, from_dict, to_dict

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 64 << 20
BUNDLE_ID_DIGITS = 16

_SHA256 = re.compile(r"[0-9a-f]{64}")


def _require(ok: bool, what: str) -> None:
    if not ok:
        raise BundleError(what)


def check_file_name(name: str) -> str:
    """Return ``name`` if it stays inside the bundle, in the same spelling on every system.

    Raises
    ------
    BundleError : the name is empty, absolute, holds "..", a backslash, a colon or a control character, or is the
        manifest's own.
    """
    parts = name.split("/")
    bad = any(part in ("", ".", "..") for part in parts) or any(char in '\\:*?"<>|' or ord(char) < 32 for char in name)
    _require(not bad, f"bundle file name {name!r} leaves the bundle or isn't portable; wanted a plain relative name")
    _require(name != MANIFEST_NAME, f"bundle file name {name!r} is the manifest's own")
    return name


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileRecord:
    """What a file of the bundle must be: SHA-256 in hexadecimal, size in bytes."""

    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        _require(_SHA256.fullmatch(self.sha256) is not None, f"sha256 is {self.sha256!r}, wanted 64 hex digits")
        _require(self.size_bytes >= 0, f"size_bytes is {self.size_bytes}, wanted at least 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphFile:
    """An ONNX graph of the bundle: its file, and the file of its external weights if it has any."""

    file: str
    data_file: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuGraphs:
    """The graphs for GPUs, which `export --gpu` writes beside those for the CPU.

    Attributes
    ----------
    precision : of matrices, kernels and most activations: "fp16", or "fp32" for tests.
    graphs : "encoder", "decoder", "condition_encoder", and of L layers the L + 1 segments "segment_00" … -> file.
    weights : the safetensors file that the segments' weights lie in; None for a VQGAN alone.
    wider : graph -> its layers that compute in float32, for values that FP16 can't hold; graphs without any left out.
    """

    precision: Literal["fp16", "fp32"]
    graphs: dict[str, str]
    weights: str | None = None
    wider: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @property
    def segments(self) -> tuple[str, ...]:
        """Names of the transformer's segments, in order."""
        names = (name for name in self.graphs if name.startswith("segment_"))
        return tuple(sorted(names, key=lambda name: (len(name), name)))

    def files_of(self, graph: str) -> tuple[str, ...]:
        """Return the files that a graph is made of."""
        own = (self.graphs[graph],)
        return (*own, self.weights) if self.weights is not None and graph in self.segments else own


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasuredPrecision:
    """How far a precision of the transformer is from float32.

    Attributes
    ----------
    kl_nats : mean divergence a code from float32's distribution.
    nll_rise : rise of the codes' negative log-likelihood, as a share of float32's.
    bits : a weight of the layers' matrices, scales included.
    wider : matrices that have 8 bits where the others have 4.
    """

    kl_nats: float
    nll_rise: float
    bits: float
    wider: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrecisionMeasurement:
    """What `export --precision auto` measured before it chose.

    Attributes
    ----------
    codes : drawn by the model itself in float32, on which all was measured.
    kl_limit_nats, nll_limit : the limits of ``kl_nats`` and ``nll_rise``.
    candidates : name -> what was found; none of fp32, which all is measured against.
    """

    codes: int
    kl_limit_nats: float
    nll_limit: float
    candidates: dict[str, MeasuredPrecision]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingDefaults:
    """How codes are drawn unless the caller says otherwise.

    Attributes
    ----------
    temperature : divides the logits; above 0.
    top_k : codes kept; None for all.
    top_p : probability mass kept, in (0, 1]; None for all.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        _require(
            math.isfinite(self.temperature) and self.temperature > 0,
            f"sampling temperature is {self.temperature}, wanted a number above 0",
        )
        _require(self.top_k is None or self.top_k >= 1, f"sampling top_k is {self.top_k}, wanted at least 1")
        _require(self.top_p is None or 0 < self.top_p <= 1, f"sampling top_p is {self.top_p}, wanted 0 < top_p <= 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MadeBy:
    """What made the bundle: the version of this package, and the checkpoint's name and SHA-256."""

    version: str
    checkpoint: str
    checkpoint_sha256: str

    def __post_init__(self) -> None:
        _require(
            _SHA256.fullmatch(self.checkpoint_sha256) is not None,
            f"checkpoint_sha256 is {self.checkpoint_sha256!r}, wanted 64 hex digits",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that a bundle says about itself.

    Attributes
    ----------
    model : what the graphs compute.
    graphs : "encoder", "decoder", "transformer", "condition_encoder" -> files.
    files : every file of the bundle but the manifest -> size and hash; names are POSIX and relative.
    codebooks : "codebook", "condition_codebook" -> file, where it isn't the name with ``.npy``.
    made_by : what made it.
    precision : graph name -> "fp32", "int8", "int4" …
    precision_measured : what the transformer's precision was chosen by; None where it was named.
    sampling : defaults of `generate`.
    class_names : one a class, in the order of their ids; empty for none.
    layout_classes : classes of the objects of a model conditioned on boxes, in the order of their ids; empty where they
        aren't known.
    layout_form : what the tokens of such a model are, as `spec.LAYOUT_TOKENS`; None where it isn't known.
    null_class : class id that stands for "no class", for models trained with one.
    licence, provenance : free text for whoever passes the bundle on.
    gpu : graphs for GPUs; None where there are none.
    schema : version of this format.

    Engines built from the bundle are no part of it: ``engine_records`` keeps those.
    """

    model: ModelSpec
    graphs: dict[str, GraphFile]
    files: dict[str, FileRecord]
    made_by: MadeBy
    codebooks: dict[str, str] = dataclasses.field(default_factory=dict)
    precision: dict[str, str] = dataclasses.field(default_factory=dict)
    precision_measured: PrecisionMeasurement | None = None
    sampling: SamplingDefaults = SamplingDefaults()
    class_names: tuple[str, ...] = ()
    layout_classes: tuple[str, ...] = ()
    layout_form: LayoutForm | None = None
    null_class: int | None = None
    licence: str | None = None
    provenance: str | None = None
    gpu: GpuGraphs | None = None
    schema: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        _require(
            self.schema == SCHEMA_VERSION,
            f"bundle schema is {self.schema}, this version reads schema {SCHEMA_VERSION}; "
            "export the checkpoint again, or install the version that made the bundle",
        )
        for name in self.files:
            check_file_name(name)
        for graph, entry in self.graphs.items():
            for name in filter(None, (entry.file, entry.data_file)):
                _require(name in self.files, f"graph {graph!r} names {name!r}, which is not among the bundle's files")
        if self.gpu is not None:
            self._check_gpu(self.gpu)
        for graph in self.precision:
            _require(graph in self.graphs, f"precision names {graph!r}, which is not among the bundle's graphs")
        num_classes = self.model.condition.num_classes if self.model.condition is not None else 0
        if self.class_names:
            _require(
                len(self.class_names) == num_classes,
                f"found {len(self.class_names)} class names, the model has {num_classes} classes",
            )
            _require(len(set(self.class_names)) == len(self.class_names), "two classes have the same name")
        is_boxes = self.model.condition is not None and self.model.condition.kind == "boxes"
        if self.layout_form is not None:
            _require(is_boxes, "found layout_form, but the model isn't conditioned on boxes")
            tokens = self.model.condition.num_tokens if self.model.condition is not None else 0
            _require(
                self.layout_form in fitting_layout_forms(tokens),
                f"layout_form is {self.layout_form!r}, but the model takes {tokens} tokens, which are no such layout; "
                f"wanted one of {', '.join(fitting_layout_forms(tokens)) or 'none'}",
            )
        if self.layout_classes:
            _require(is_boxes, "found layout_classes, but the model isn't conditioned on boxes")
            _require(len(set(self.layout_classes)) == len(self.layout_classes), "two layout classes have the same name")
        _require(
            self.null_class is None or 0 <= self.null_class < num_classes,
            f"null_class is {self.null_class}, the model has {num_classes} classes",
        )

    def _check_gpu(self, gpu: GpuGraphs) -> None:
        layers = self.model.transformer.num_layers if self.model.transformer is not None else None
        wanted = {"encoder", "decoder"}
        if self.model.condition is not None and self.model.condition.autoencoder is not None:
            wanted.add("condition_encoder")
        if layers is not None:
            wanted |= {segment_name(i) for i in range(layers + 1)}
        _require(
            set(gpu.graphs) == wanted,
            f"gpu.graphs has {', '.join(sorted(gpu.graphs))}; this model wants {', '.join(sorted(wanted))}",
        )
        _require((gpu.weights is None) == (layers is None), "gpu.weights belongs to a transformer, and only to one")
        for graph in gpu.graphs:
            for name in gpu.files_of(graph):
                _require(name in self.files, f"gpu graph {graph!r} names {name!r}, which is not among the files")
        for graph in gpu.wider:
            _require(graph in gpu.graphs, f"gpu.wider names {graph!r}, which is not among gpu.graphs")

    def gpu_graph_sha256(self, graph: str) -> str:
        """Return what a GPU graph computes as a hash: of the hashes of the files that it is made of."""
        assert self.gpu is not None
        hashes = [self.files[name].sha256 for name in self.gpu.files_of(graph)]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()

    @property
    def bundle_id(self) -> str:
        """What the bundle computes, as 16 hex digits: a hash of the model and of every file's hash."""
        content = {"model": to_dict(self.model), "files": {name: r.sha256 for name, r in sorted(self.files.items())}}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:BUNDLE_ID_DIGITS]

    @property
    def size_bytes(self) -> int:
        """Size of the bundle's files without the manifest."""
        return sum(record.size_bytes for record in self.files.values())


def segment_name(index: int) -> str:
    """Return the name of a segment of the transformer, of at least two digits."""
    return f"segment_{index:02d}"


def manifest_to_json(manifest: Manifest) -> str:
    """Return the manifest as JSON text, the same text for equal manifests."""
    data = dataclasses.asdict(manifest)
    for optional in ("gpu", "precision_measured"):
        if data[optional] is None:
            del data[optional]  # so that a bundle without it stays readable where the key isn't known
    return json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n"


def manifest_from_json(text: str, where: str = MANIFEST_NAME) -> Manifest:
    """Return the manifest that ``text`` holds.

    Raises
    ------
    BundleError : no JSON object, a key twice, an unknown, missing or mistyped key, an unknown schema.
    """
    try:
        data = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: is not valid JSON ({error})") from None
    except BundleError as error:
        raise BundleError(f"{where}: {error}") from None
    if not isinstance(data, Mapping):
        raise BundleError(f"{where}: found {type(data).__name__}, wanted an object")
    # The schema is looked at first: a newer one may have keys that this version can't judge.
    schema = data.get("schema")
    if type(schema) is not int or schema != SCHEMA_VERSION:
        raise BundleError(
            f"{where}: bundle schema is {schema!r}, this version reads schema {SCHEMA_VERSION}; "
            "export the checkpoint again, or install the version that made the bundle"
        )
    try:
        manifest: Manifest = from_dict(Manifest, data, where)
    except SpecError as error:
        # an unknown key is told with its place, a contradiction between two isn't
        told = str(error)
        raise BundleError(told if told.startswith(where) else f"{where}: {told}") from None
    except BundleError as error:
        raise BundleError(f"{where}: {error}") from None
    return manifest


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    _require(len(keys) == len(pairs), "a key stands twice in one object")
    return keys


def _refuse_constant(name: str) -> float:
    raise BundleError(f"found {name}, wanted a finite number")


def bundle_folder(bundle: str | os.PathLike[str]) -> Path:
    """Return the folder of a bundle's files: the bundle's path, or where its manifest lies if that is its path."""
    path = Path(bundle)
    return path.parent if path.suffix == ".json" and not path.is_dir() else path


def read_manifest(bundle: str | os.PathLike[str]) -> Manifest:
    """Return the manifest of a bundle: of a folder, or the manifest itself where several models share a folder.

    Raises
    ------
    BundleError : no such folder, no manifest in it, or one that `manifest_from_json` refuses.
    """
    folder = bundle_folder(bundle)
    path = folder / MANIFEST_NAME if folder == Path(bundle) else Path(bundle)
    if not folder.exists():
        raise BundleError(f"bundle {folder}: no such folder; make one with `trt-vqgan export RUN -o {folder}`")
    if not path.is_file():
        raise BundleError(
            f"{bundle} is no bundle: it has no {MANIFEST_NAME}; `trt-vqgan export RUN -o BUNDLE` makes one"
            if path.name == MANIFEST_NAME
            else f"bundle {path}: no such manifest; wanted a bundle's folder, or the manifest of one of its models"
        )
    try:
        size_bytes = path.stat().st_size
        _require(
            size_bytes <= MAX_MANIFEST_BYTES,
            f"{path}: has {size_bytes} bytes, a manifest has at most {MAX_MANIFEST_BYTES}",
        )
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: can't be read ({error})") from None
    return manifest_from_json(text, str(path))


def write_manifest(folder: str | os.PathLike[str], manifest: Manifest) -> Path:
    """Write ``manifest`` into ``folder`` through a temporary name; return its path."""
    path = Path(folder) / MANIFEST_NAME
    write_bytes(path, manifest_to_json(manifest).encode())
    return path


def record_file(path: str | os.PathLike[str]) -> FileRecord:
    """Return size and SHA-256 of a file, read in pieces."""
    with Path(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(sha256=digest, size_bytes=os.fstat(file.fileno()).st_size)


def record_files(folder: str | os.PathLike[str]) -> dict[str, FileRecord]:
    """Return a record of every file in ``folder`` but the manifest, by POSIX name, sorted."""
    folder = Path(folder)
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: record_file(paths[name]) for name in sorted(paths) if name != MANIFEST_NAME}


def verify_files(folder: str | os.PathLike[str], manifest: Manifest) -> None:
    """Check that every file of the bundle is there and unchanged.

    Raises
    ------
    BundleError : a file is missing, has another size, or another SHA-256; names the first.
    """
    folder = Path(folder)
    again = "copy or export the bundle again"
    # Sizes first: a truncated copy is told at once, without hashing gigabytes.
    for name, record in manifest.files.items():
        path = folder / PurePosixPath(name)
        _require(path.is_file(), f"bundle {folder}: {name} is missing; {again}")
        found = path.stat().st_size
        _require(
            found == record.size_bytes,
            f"bundle {folder}: {name} has {found} bytes, the manifest says {record.size_bytes}; {again}",
        )
    for name, record in manifest.files.items():
        found_sha256 = record_file(folder / PurePosixPath(name)).sha256
        _require(
            found_sha256 == record.sha256,
            f"bundle {folder}: {name} was changed: sha256 is {found_sha256[:12]}…, "
            f"the manifest says {record.sha256[:12]}…; {again}",
        )
