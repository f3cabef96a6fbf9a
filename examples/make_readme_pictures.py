"""Make the pictures of the README: `python examples/make_readme_pictures.py`, from fixed seeds, nothing selected."""

from __future__ import annotations

from pathlib import Path

import trt_vqgan
from trt_vqgan.runtime.contact_sheet import ContactSheet
from trt_vqgan.runtime.images import write_png

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
A_CLASS = 8


def main() -> None:
    """Write docs/images/demo.png: eight pictures of each class in a row, seed 0."""
    with trt_vqgan.load() as pipe:
        classes = range(len(pipe.manifest.class_names))
        wanted = [class_id for class_id in classes for _ in range(A_CLASS)]
        side = pipe.spec.autoencoder.resolution
        sheet = ContactSheet(len(wanted), side, side, columns=A_CLASS)
        for number, _, image in pipe.generate_stream(n=len(wanted), class_id=wanted, seed=0):
            sheet.put(number, image)
    write_png(IMAGES / "demo.png", sheet.image)


if __name__ == "__main__":
    main()
