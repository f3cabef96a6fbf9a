"""Put the trained models into the package: three int8 models in one folder, with the VQGAN that they share, and maps.

    python -m examples.landscapes.ship --class CLASS/checkpoint --segmentation LABELS/checkpoint \\
        --depth DEPTH/checkpoint --maps sets/held-out -o trt_vqgan/demo/landscapes

Files that all models have alike stand once; the others in a folder of the model's name. Each model's manifest is
NAME.json, which is the path that `load` and the commands take.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from examples.landscapes.condition_maps import disparity
from examples.landscapes.dataset import LandscapeSet, open_set
from examples.landscapes.light import CLASSES
from examples.landscapes.terrain import KINDS
from trt_vqgan.export.exporter import export_checkpoint
from trt_vqgan.manifest import GraphFile, Manifest, manifest_to_json, read_manifest

LICENCE = "Apache-2.0"
PROVENANCE = (
    "Trained by this project on 12,000 rendered landscapes of 128x128 pixels (examples/landscapes; no photographs): "
    "a VQGAN f8 with 1024 codes and a GPT of 6 layers, conditioned on {what}."
)
CONDITIONS = {"class": "the kind of landscape", "segmentation": "a map of labels", "depth": "a map of disparity"}
LIMIT_BYTES = 30_000_000
MAP_ROWS = (0, 1, 2, 3, 4)
"""Held-out pictures whose maps ship as examples: one of each kind, the first of the set."""

PALETTE = {
    "sky": (135, 190, 235),
    "cloud": (235, 240, 245),
    "water": (40, 100, 170),
    "sand": (220, 190, 130),
    "grass": (110, 170, 70),
    "forest": (30, 90, 50),
    "rock": (125, 120, 115),
    "snow": (250, 250, 255),
    "sun": (255, 210, 80),
}


def shipped(manifest: Manifest, name: str, common: set[str]) -> Manifest:
    """Return a bundle's manifest for the shared folder: what isn't common lies under ``name/``."""

    def place(file: str) -> str:
        return file if file in common else f"{name}/{file}"

    graphs = {
        graph: GraphFile(file=place(g.file), data_file=None if g.data_file is None else place(g.data_file))
        for graph, g in manifest.graphs.items()
    }
    books = {file.removesuffix(".npy"): place(file) for file in manifest.files if file.endswith("codebook.npy")}
    moved = {book: file for book, file in books.items() if file != f"{book}.npy"}
    files = {place(file): record for file, record in manifest.files.items()}
    return dataclasses.replace(manifest, graphs=graphs, files=files, codebooks=moved)


def merge(bundles: dict[str, Path], out: Path) -> None:
    """Write bundles as one folder; what all of them have with the same hash stands once."""
    manifests = {name: read_manifest(folder) for name, folder in bundles.items()}
    first = next(iter(manifests.values()))
    common = {
        file
        for file, record in first.files.items()
        if all(manifest.files.get(file) == record for manifest in manifests.values())
    }
    for name, manifest in manifests.items():
        target = shipped(manifest, name, common)
        for old in manifest.files:
            place = out / (old if old in common else f"{name}/{old}")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundles[name] / old, place)
        (out / f"{name}.json").write_text(manifest_to_json(target))


def write_maps(folder: Path, landscapes: LandscapeSet) -> None:
    """Write held-out scenes: label maps (palette PNG), depth (16-bit grey PNG), pictures; and a mask of a left half."""
    folder.mkdir(parents=True)
    palette = np.array([PALETTE[name] for name in CLASSES], np.uint8)
    for row in MAP_ROWS:
        kind = KINDS[int(landscapes.kinds[row])].replace(" ", "-")
        labels = Image.fromarray(np.asarray(landscapes.labels[row]))
        labels = labels.convert("P")
        labels.putpalette(palette.tobytes())
        labels.save(folder / f"segmentation-{kind}.png", optimize=True)
        Image.fromarray(np.asarray(landscapes.images[row])).save(folder / f"picture-{kind}.png", optimize=True)
        near = (disparity(np.asarray(landscapes.depth[row : row + 1]))[0] + 1) / 2
        Image.fromarray(np.round(near * 65535).astype(np.uint16)).save(folder / f"depth-{kind}.png", optimize=True)
    mask = np.zeros(landscapes.labels.shape[1:], np.uint8)
    mask[:, : mask.shape[1] // 2] = 255
    Image.fromarray(mask).save(folder / "mask-left-half.png", optimize=True)


def main() -> None:
    """Parse the command line, export, merge, and replace the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in CONDITIONS:
        parser.add_argument(f"--{name}", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--maps", type=Path, required=True, help="held-out set whose first maps ship as examples")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{options.out.name}.", dir=options.out.parent))
    try:
        bundles = {}
        for name, what in CONDITIONS.items():
            is_class = name == "class"
            names = [*(kind.replace(" ", "-") for kind in KINDS), "any"] if is_class else []
            bundles[name] = export_checkpoint(
                getattr(options, name),
                work / "bundles" / name,
                precision="int8",
                class_names=names,
                null_class=len(KINDS) if is_class else None,
                top_k=200,
                top_p=0.95,
                licence=LICENCE,
                provenance=PROVENANCE.format(what=what),
            )
        merged = work / "merged"
        merge(bundles, merged)
        write_maps(merged / "maps", open_set(options.maps))
        size_bytes = sum(path.stat().st_size for path in merged.rglob("*") if path.is_file())
        if size_bytes > LIMIT_BYTES:
            raise SystemExit(f"{size_bytes / 1e6:.1f} MB, more than {LIMIT_BYTES / 1e6:.0f} MB")
        if options.out.exists():
            options.out.rename(work / "old")
        merged.rename(options.out)
        print(f"{options.out}: {size_bytes / 1e6:.1f} MB")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
