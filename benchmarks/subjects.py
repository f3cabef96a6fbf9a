"""What is measured: a bundle, or a model of random weights that is written when it is first needed."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from trt_vqgan.extras import import_module
from trt_vqgan.manifest import bundle_folder, read_manifest, verify_files
from trt_vqgan.spec import ModelSpec


class Subject(Protocol):
    """A model in one or more precisions.

    Attributes
    ----------
    name, autoencoder_name : of the whole and of its VQGAN, for the table.
    spec : the model.
    precisions : of the transformer, in which it can be had.
    weights : by canonical key, for the reference; None where they aren't known.
    """

    name: str
    autoencoder_name: str
    spec: ModelSpec
    precisions: tuple[str, ...]
    weights: Mapping[str, Any] | None

    def transformer(self, precision: str) -> Path:
        """Return the file of the transformer's graph."""

    def autoencoder(self, precision: str) -> Path:
        """Return a folder that holds the VQGAN's graphs and codebook."""

    def autoencoder_precision(self, precision: str) -> str:
        """Return "fp32" or "fp16 weights", which goes with this precision of the transformer."""

    def bundle(self, precision: str) -> Path:
        """Return the folder of the whole bundle."""

    def wider(self, vocab_size: int) -> Subject | None:
        """Return the same model with another vocabulary, or None where there is none."""

    def close(self) -> None:
        """Remove what was written."""


class BundleSubject:
    """A bundle that exists; its files are checked once.

    Parameters
    ----------
    bundle : its folder, or its manifest in one.
    weights : of the checkpoint that it was made from, where that is at hand.

    Raises
    ------
    BundleError : it is incomplete or was changed.
    """

    def __init__(self, bundle: Path, *, weights: Mapping[str, Any] | None = None) -> None:
        folder, manifest = bundle_folder(bundle), read_manifest(bundle)
        verify_files(folder, manifest)
        self._bundle, self._folder, self._manifest = bundle, folder, manifest
        self.name = self.autoencoder_name = bundle.resolve().stem
        self.spec = manifest.model
        decoder = manifest.precision.get("decoder", "fp32")
        self.precisions: tuple[str, ...] = (manifest.precision.get("transformer", decoder),)
        self.weights = weights

    def transformer(self, precision: str) -> Path:
        """Return the file of the transformer's graph."""
        return self._folder / self._manifest.graphs["transformer"].file

    def autoencoder(self, precision: str) -> Path:
        """Return the bundle's folder."""
        return self._folder

    def autoencoder_precision(self, precision: str) -> str:
        """Return the precision of the bundle's decoder."""
        return self._manifest.precision.get("decoder", "fp32")

    def bundle(self, precision: str) -> Path:
        """Return the bundle's path."""
        return self._bundle

    def wider(self, vocab_size: int) -> Subject | None:
        """Return None: a bundle has the vocabulary that it has."""
        return None

    def close(self) -> None:
        """Do nothing: the bundle stays."""


class RandomSubject:
    """A model of random weights in a temporary folder; each part is written when it is first asked for.

    Raises
    ------
    MissingDependencyError : onnx isn't installed.
    """

    def __init__(self, spec: ModelSpec, *, name: str, precisions: tuple[str, ...]) -> None:
        self._writer: Any = import_module("trt_vqgan.benchmarks.random_models")
        self.name, self.spec, self.precisions = name, spec, precisions
        side = spec.autoencoder.resolution
        self.autoencoder_name = f"f{spec.autoencoder.factor} {side}x{side}"
        self.weights: Mapping[str, Any] | None = self._writer.RandomWeights(spec)
        self._root = tempfile.TemporaryDirectory(prefix="trt-vqgan-bench-")
        self._written: set[tuple[str, str]] = set()

    def transformer(self, precision: str) -> Path:
        """Return the file of the transformer's graph."""
        folder = self._part("transformer", precision)
        if folder is not None:
            self._writer.write_transformer(folder, self.spec, self.weights, precision=precision)
        return self._folder(precision) / "transformer.onnx"

    def autoencoder(self, precision: str) -> Path:
        """Return a folder that holds the VQGAN's graphs and codebook."""
        folder = self._part("autoencoder", precision)
        if folder is not None:
            self._writer.write_autoencoder(folder, self.spec, self.weights, precision=precision)
        return self._folder(precision)

    def autoencoder_precision(self, precision: str) -> str:
        """Return "fp16 weights" for int8 and int4, as an export does."""
        return "fp32" if precision == "fp32" else "fp16 weights"

    def bundle(self, precision: str) -> Path:
        """Return the folder of the whole bundle."""
        self.transformer(precision)
        self.autoencoder(precision)
        folder = self._part("manifest", precision)
        if folder is not None:
            self._writer.write_random_manifest(folder, self.spec, precision=precision)
        return self._folder(precision)

    def wider(self, vocab_size: int) -> Subject | None:
        """Return the same shape with another vocabulary."""
        transformer = self.spec.transformer
        assert transformer is not None
        spec = dataclasses.replace(
            self.spec,
            autoencoder=dataclasses.replace(self.spec.autoencoder, codebook_size=vocab_size),
            transformer=dataclasses.replace(transformer, vocab_size=vocab_size),
        )
        return RandomSubject(spec, name=f"{self.name} V={vocab_size}", precisions=self.precisions)

    def close(self) -> None:
        """Remove the temporary folder."""
        self._root.cleanup()

    def _folder(self, precision: str) -> Path:
        return Path(self._root.name) / precision

    def _part(self, part: str, precision: str) -> Path | None:
        """Return the folder to write a part into, or None where it has been written."""
        if (part, precision) in self._written:
            return None
        self._written.add((part, precision))
        folder = self._folder(precision)
        folder.mkdir(exist_ok=True)
        return folder
