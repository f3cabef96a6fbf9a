"""Make the pictures of the README: `python examples/make_readme_pictures.py [NAME …]`, fixed seeds, nothing selected.

`large` needs examples/landscapes and its renderer for the map (NumPy only), and takes some minutes; `precisions`, of
docs/precision.md, exports examples/landscapes/states/class, for which it needs torch.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import trt_vqgan
from trt_vqgan.runtime.condition_files import read_depth, read_segmentation
from trt_vqgan.runtime.contact_sheet import ContactSheet
from trt_vqgan.runtime.demos import demo_bundle, example_maps
from trt_vqgan.runtime.images import read_image, write_png

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
A_CLASS = 8
A_MAP = 5
PRECISIONS = ("fp32", "int8", "int4", "auto")
LARGE_WORLD = 100200
"""A held-out world: the large picture's map is of a scene that no model has seen."""
LARGE_SIDE, LARGE_STRETCH = 512, 4
"""The map is four times as high as the training pictures and drawn out to 2048 pixels: a square megapixel shows a
window an eighth of a scene, where a map of one label can be anything, and sky became meadow.
"""


def classes() -> None:
    """Write demo.png: eight pictures of each class in a row."""
    with trt_vqgan.load() as pipe:
        ids = [i for i in range(len(pipe.manifest.class_names)) if i != pipe.manifest.null_class]
        wanted = [class_id for class_id in ids for _ in range(A_CLASS)]
        side = pipe.spec.autoencoder.resolution
        sheet = ContactSheet(len(wanted), side, side, columns=A_CLASS)
        for number, _, image in pipe.generate_stream(n=len(wanted), class_id=wanted, seed=0):
            sheet.put(number, image)
    write_png(IMAGES / "demo.png", sheet.image)


def _maps(
    name: str, shown: Callable[[Path], np.ndarray], given: Callable[[trt_vqgan.Pipeline, Path], np.ndarray]
) -> None:
    """Write a sheet with an example map and pictures made of it in each row."""
    with trt_vqgan.load(demo_bundle(name)) as pipe:
        side = pipe.spec.autoencoder.resolution
        maps = example_maps(name)
        sheet = ContactSheet(len(maps) * (1 + A_MAP), side, side, columns=1 + A_MAP)
        for row, path in enumerate(maps):
            sheet.put(row * (1 + A_MAP), shown(path))
            codes = given(pipe, path)
            for number, _, image in pipe.generate_stream(n=A_MAP, condition_codes=codes, seed=0):
                sheet.put(row * (1 + A_MAP) + 1 + number, image)
    write_png(IMAGES / f"{name}.png", sheet.image)


def segmentation() -> None:
    """Write segmentation.png: label maps of held-out scenes, and five pictures of each."""

    def labels(pipe: trt_vqgan.Pipeline, path: Path) -> np.ndarray:
        condition = pipe.spec.condition
        assert condition is not None
        assert condition.autoencoder is not None
        found = read_segmentation(path, num_labels=condition.autoencoder.in_channels)
        return pipe.encode_condition(segmentation=found)

    _maps("segmentation", lambda path: np.asarray(Image.open(path).convert("RGB")), labels)


def depth() -> None:
    """Write depth.png: depth maps of held-out scenes, near is light, and five pictures of each."""

    def grey(path: Path) -> np.ndarray:
        map_ = np.asarray(read_depth(path), np.float64)
        level = (map_ - map_.min()) / max(map_.max() - map_.min(), 1e-9)
        return np.repeat(np.uint8(level * 255)[..., None], 3, axis=2)

    _maps("depth", grey, lambda pipe, path: pipe.encode_condition(depth=read_depth(path)))


def completions() -> None:
    """Write completion.png: the left half of a held-out render, and five completions of it, for each kind."""
    with trt_vqgan.load() as pipe:
        side = pipe.spec.autoencoder.resolution
        renders = sorted((demo_bundle().parent / "maps").glob("picture-*.png"))
        sheet = ContactSheet(len(renders) * (1 + A_MAP), side, side, columns=1 + A_MAP)
        keep = np.zeros((side, side), bool)
        keep[:, : side // 2] = True
        for row, path in enumerate(renders):
            render = read_image(path)
            half = np.where(keep[..., None], render, 128).astype(np.uint8)
            sheet.put(row * (1 + A_MAP), half)
            kind = path.stem.removeprefix("picture-")
            for number, _, image in pipe.generate_stream(n=A_MAP, class_id=kind, init=render[None], keep=keep, seed=0):
                sheet.put(row * (1 + A_MAP) + 1 + number, image)
    write_png(IMAGES / "completion.png", sheet.image)


def large() -> None:
    """Write large.jpg: a megapixel landscape from the label map of a held-out scene, windows moving every 4 codes."""
    from examples.landscapes.scenes import World, render

    _, labels, _, _ = render(World(LARGE_WORLD), np.random.default_rng((LARGE_WORLD, 0)), size=LARGE_SIDE, kind=0)
    wide = np.repeat(labels, LARGE_STRETCH, axis=1)[None].astype(np.int64)
    with trt_vqgan.load(demo_bundle("segmentation")) as pipe:
        size = (LARGE_SIDE * LARGE_STRETCH, LARGE_SIDE)
        result = pipe.generate(n=1, segmentation=wide, size=size, window_shift=4, seed=0)
    Image.fromarray(result.images[0]).save(IMAGES / "large.jpg", quality=88)


def precisions() -> None:
    """Write precisions.png: a row a class, of one seed; fp32, int8, int4 and auto from left to right."""
    run = Path(__file__).resolve().parent / "landscapes" / "states" / "class"
    classes = 5  # of the sixth, which is none, pictures are of any kind
    sheet = None
    with tempfile.TemporaryDirectory() as folder:
        for column, precision in enumerate(PRECISIONS):
            bundle = trt_vqgan.export_checkpoint(
                run, Path(folder) / precision, precision=precision, top_k=200, top_p=0.95
            )
            with trt_vqgan.load(bundle, backend="onnxruntime") as pipe:
                images = pipe.generate(n=classes, class_id=list(range(classes)), seed=0).images
            if sheet is None:
                sheet = ContactSheet(classes * len(PRECISIONS), *images.shape[1:3], columns=len(PRECISIONS))
            for row, image in enumerate(images):
                sheet.put(row * len(PRECISIONS) + column, image)
    assert sheet is not None
    write_png(IMAGES / "precisions.png", sheet.image)


PICTURES = {
    "classes": classes,
    "segmentation": segmentation,
    "depth": depth,
    "completions": completions,
    "large": large,
    "precisions": precisions,
}


def main() -> None:
    """Make the named pictures, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PICTURES))
    for name in parser.parse_args().names or PICTURES:
        PICTURES[name]()


if __name__ == "__main__":
    main()
