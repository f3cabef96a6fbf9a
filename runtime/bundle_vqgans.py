"""The VQGANs of a bundle: which graphs and which codebook each has."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import BundleError
from trt_vqgan.manifest import Manifest
from trt_vqgan.spec import AutoencoderSpec


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BundleVqgan:
    """One VQGAN.

    Attributes
    ----------
    spec : what it is.
    encoder, decoder : names of its graphs; a condition's has no decoder.
    codebook : float32 (N, D).
    """

    spec: AutoencoderSpec
    encoder: str
    decoder: str | None
    codebook: npt.NDArray[np.float32]


def read_vqgans(folder: Path, manifest: Manifest) -> tuple[BundleVqgan, BundleVqgan | None]:
    """Return the pictures' VQGAN, and the condition's where that is another one.

    Raises
    ------
    BundleError : a codebook is missing or isn't what the manifest says.
    """
    spec = manifest.model.autoencoder
    pictures = BundleVqgan(
        spec=spec, encoder="encoder", decoder="decoder", codebook=_codebook(folder, manifest, "codebook", spec)
    )
    condition = manifest.model.condition
    if condition is None or condition.shares_first_stage or condition.autoencoder is None:
        return pictures, None
    spec = condition.autoencoder
    codebook = _codebook(folder, manifest, "condition_codebook", spec)
    return pictures, BundleVqgan(spec=spec, encoder="condition_encoder", decoder=None, codebook=codebook)


def _codebook(folder: Path, manifest: Manifest, name: str, spec: AutoencoderSpec) -> npt.NDArray[np.float32]:
    path = folder / manifest.codebooks.get(name, f"{name}.npy")
    try:
        entries: npt.NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: can't be read ({error}); export the bundle again") from None
    wanted = (spec.codebook_size, spec.code_dim)
    if entries.shape != wanted or entries.dtype != np.float32:
        raise BundleError(f"{path}: found {entries.dtype} {entries.shape}, wanted float32 {wanted}")
    return entries
