"""A published checkpoint, opened: its spec and its weights under canonical keys, still in their file."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trt_vqgan.errors import CheckpointError
from trt_vqgan.export.config_files import find_files, load_config
from trt_vqgan.export.key_shapes import expected_shapes
from trt_vqgan.export.safetensors_file import read_safetensors_file
from trt_vqgan.export.scene_config import layout_form
from trt_vqgan.export.stored_facts import CODEBOOK_KEYS, Entry, StoredFacts, drop_shared_stage, take_facts
from trt_vqgan.export.stored_tensor import StoredTensor
from trt_vqgan.export.torch_file import StateFile, Unreadable, read_torch_file
from trt_vqgan.export.translate import has_transformer, translate
from trt_vqgan.export.weights import Weight, Weights
from trt_vqgan.spec import LayoutForm, ModelSpec

# Canonical prefix -> prefix in the state dict, for a VQGAN alone and for a VQGAN with a transformer.
_AUTOENCODER_PREFIXES = {"first_stage.": ""}
_MODEL_PREFIXES = {
    "first_stage.": "first_stage_model.",
    "condition.": "cond_stage_model.",
    "transformer.": "transformer.",
    "permuter.": "permuter.",
}
# Entries of a VQGAN that only training and display need; the last two belong to codebooks updated by averaging.
_TRAINING_ONLY = re.compile(
    r"(loss|model_ema)\..*|colorize|quantize\.embedding\.(cluster_size|embed_avg)",
    re.DOTALL,
)
_MASK = re.compile(r"transformer\.blocks\.\d+\.attn\.mask")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint.

    Attributes
    ----------
    path : the file of weights.
    config_paths : the YAML files that describe it, in the order in which they were merged.
    spec : what the model is.
    weights : float32 arrays under ``first_stage.``, ``condition.`` and ``transformer.``; each is read from the file
        when it is asked for.
    ignored : what the file holds beside the weights, as patterns such as ``loss.*``; none of it was read.
    layout_form : what the tokens of a scene model's layout are; None where the config doesn't say.

    Notes
    -----
    A remapped codebook (a stored ``quantize.used``) is folded: its weights hold the rows that ``used`` names, in that
    order, and ``codebook_size`` counts those. Where the nearest row of the full codebook lies outside ``used``, the
    published code draws a random code; with the folded codebook it is the nearest row among those used.
    """

    path: Path
    config_paths: tuple[Path, ...]
    spec: ModelSpec
    weights: Weights
    ignored: tuple[str, ...] = ()
    layout_form: LayoutForm | None = None

    @property
    def source(self) -> str:
        """Name of the file of weights."""
        return self.path.name

    def sha256(self) -> str:
        """Return the SHA-256 of the file of weights, as hexadecimal digits; reads the whole file."""
        digest = hashlib.sha256()
        with self.path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()


def open_checkpoint(path: str | Path, *, config: str | Path | None = None) -> Checkpoint:
    """Return a published checkpoint, ready to have its weights read.

    Nothing from the file is executed or imported, and nothing but small indices is read before a weight is asked for.
    Files of torch before 1.6 are mapped just the same.

    Parameters
    ----------
    path : a run folder, a ``.ckpt`` (or other file of ``torch.save``) or a ``.safetensors`` file.
    config : its YAML, or the folder of its YAMLs, where that isn't beside it or in ``../configs``.

    Raises
    ------
    CheckpointError : anything is missing, damaged, unknown or contradictory; the message names it.
    MissingDependencyError : PyYAML isn't installed.
    """
    file, config_paths = find_files(Path(path), None if config is None else Path(config))
    settings = load_config(config_paths)
    stored = read_safetensors_file(file) if file.suffix == ".safetensors" else read_torch_file(file)
    try:
        return _open(file, config_paths, settings, stored)
    except CheckpointError as error:
        names = ", ".join(config_path.name for config_path in config_paths)
        raise CheckpointError(f"{file} with {names}: {error}") from error


def _open(file: Path, config_paths: tuple[Path, ...], settings: Mapping[str, object], stored: StateFile) -> Checkpoint:
    prefixes = _MODEL_PREFIXES if has_transformer(settings) else _AUTOENCODER_PREFIXES
    entries: dict[str, Entry] = {}
    masks: dict[str, Entry] = {}
    ignored = set(stored.others)
    unknown: list[str] = []
    for name, entry in stored.tensors.items():
        key = _canonical(name, prefixes)
        if key is None:
            # A whole model may carry training state of its own beside its parts.
            ignored.add(_pattern(name)) if _TRAINING_ONLY.fullmatch(name) else unknown.append(name)
        elif _MASK.fullmatch(key):
            masks[key] = entry
            ignored.add("transformer.blocks.*.attn.mask")
        elif not key.startswith("transformer.") and _TRAINING_ONLY.fullmatch(key.partition(".")[2]):
            ignored.add(_pattern(name))
        else:
            entries[key] = entry
    facts = take_facts(entries)
    spec = translate(settings, facts=facts)
    if spec.condition is not None and spec.condition.shares_first_stage and drop_shared_stage(entries):
        ignored.add("cond_stage_model.*")
    weights = _check(spec, entries, facts, unknown, prefixes)
    _check_masks(spec, masks)
    form = layout_form(settings, spec)
    return Checkpoint(file, config_paths, spec, Weights(weights), tuple(sorted(ignored)), form)


def _canonical(name: str, prefixes: Mapping[str, str]) -> str | None:
    for canonical, published in prefixes.items():
        if name.startswith(published):
            return canonical + name.removeprefix(published)
    return None


def _published(key: str, prefixes: Mapping[str, str]) -> str:
    for canonical, published in prefixes.items():
        if key.startswith(canonical):
            return published + key.removeprefix(canonical)
    return key


def _pattern(name: str) -> str:
    """Return a name with what follows its first training-only part replaced: ``loss.discriminator.…`` → ``loss.*``."""
    return re.sub(r"(^|\.)(loss|model_ema)\..*", r"\1\2.*", name, flags=re.DOTALL)


def _check(
    spec: ModelSpec,
    entries: Mapping[str, Entry],
    facts: StoredFacts,
    unknown: list[str],
    prefixes: Mapping[str, str],
) -> dict[str, Weight]:
    """Return the weights that the spec wants; a missing, unexpected or misshapen key is an error that names it."""
    wanted = expected_shapes(spec)
    used = {"first_stage": facts.first_stage.used, "condition": facts.condition.used}
    weights: dict[str, Weight] = {}
    unexpected = unknown + [_published(key, prefixes) for key in entries if key not in wanted]
    absent = [f"key {name!r} is unexpected, the config has no use for it" for name in unexpected]
    wrong: list[str] = []
    for key, shape in wanted.items():
        entry = entries.get(key)
        name = _published(key, prefixes)
        if entry is None:
            absent.append(f"key {name!r} is missing, wanted shape {shape}")
        elif isinstance(entry, Unreadable):
            wrong.append(f"key {name!r} can't be read: {entry.reason}")
        else:
            stage, _, rest = key.partition(".")
            weights[key] = weight = Weight(entry, used.get(stage) if rest in CODEBOOK_KEYS else None)
            if weight.shape != shape:
                wrong.append(f"key {name!r} has shape {weight.shape}, wanted {shape}")
    # A wrong shape says more about a wrong config than what is missing or unexpected because of it.
    faults = wrong + absent
    if faults:
        more = f" ({len(faults)} keys differ; is this YAML the checkpoint's own?)" if len(faults) > 1 else ""
        raise CheckpointError(faults[0] + more)
    return weights


def _check_masks(spec: ModelSpec, masks: Mapping[str, Entry]) -> None:
    """Compare the stored attention masks, which follow from the config, with what it says."""
    if spec.transformer is None:
        return
    size, unmasked = spec.transformer.max_seq_len, spec.transformer.num_unmasked
    for key, entry in masks.items():
        if not isinstance(entry, StoredTensor) or entry.shape != (1, 1, size, size):
            found = entry.reason if isinstance(entry, Unreadable) else f"it has shape {entry.shape}"
            raise CheckpointError(f"key {key!r}: {found}, wanted {(1, 1, size, size)} from the config's block_size")
        wanted = np.tri(size, dtype=bool)
        wanted[:unmasked, :unmasked] = True
        if not np.array_equal(entry.read()[0, 0] != 0, wanted):
            raise CheckpointError(
                f"key {key!r} is not the mask of the config's n_unmasked = {unmasked}; is this YAML the checkpoint's "
                "own?"
            )
