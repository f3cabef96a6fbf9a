"""``trt-vqgan reconstruct``: pictures through the codes and back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click

from trt_vqgan.cli import options
from trt_vqgan.cli.commands import Interrupted
from trt_vqgan.cli.outputs import picture_paths, unique_stems
from trt_vqgan.cli.progress import PicturesProgress


@click.command(short_help="Send pictures through the codes and back.")
@options.bundle_argument
@click.argument("images", type=options.PATH, nargs=-1, required=True, metavar="IMG...")
@options.out_option
@click.option("--decode-tiles", is_flag=True, help="Decode in overlapping tiles: less memory, nearly the same.")
@options.picture_precision_option
@options.running_options
def reconstruct(
    bundle: Path,
    images: tuple[Path, ...],
    out: Path,
    decode_tiles: bool,
    picture_precision: str,
    backend: str,
    device: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Encode each IMG, take the nearest codes, decode them into OUT.

    Pictures of any size: their edges are repeated up to a whole number of codes, and cropped back. Printed for each:
    PSNR against the original, and the bits that the codes take a pixel.
    """
    from trt_vqgan.runtime.images import pad_to_multiple, read_image, write_png
    from trt_vqgan.runtime.psnr import psnr_db

    paths = picture_paths(out, unique_stems(images))
    rows: list[dict[str, Any]] = []
    with options.open_bundle(
        bundle, backend=backend, device=device, threads=threads, picture_precision=picture_precision
    ) as pipeline:
        autoencoder = pipeline.spec.autoencoder
        try:
            with PicturesProgress(len(images), quiet=as_json) as progress:
                for source, path in zip(images, paths, strict=True):
                    image = read_image(source)
                    height, width = image.shape[:2]
                    codes = pipeline.encode(pad_to_multiple(image, autoencoder.factor)[None])
                    decoded = pipeline.decode(codes, tiles=decode_tiles)[0, :height, :width]
                    write_png(path, decoded)
                    row = {
                        "image": str(source),
                        "file": str(path),
                        "width": width,
                        "height": height,
                        "psnr_db": psnr_db(image, decoded),
                        "bits_per_pixel": codes.size * math.log2(autoencoder.codebook_size) / (height * width),
                    }
                    rows.append(row)
                    if not as_json:
                        progress.echo(
                            f"{source}  {width}x{height}  PSNR {row['psnr_db']:.2f} dB  "
                            f"{row['bits_per_pixel']:.4f} bits a pixel  -> {path}"
                        )
                    progress.finished()
        except KeyboardInterrupt:
            raise Interrupted(f"{len(rows)} of {len(images)} pictures are written to {paths[0].parent}") from None
        if as_json:
            # A picture that comes back exactly has no finite PSNR, and JSON has no infinity.
            for row in rows:
                row["psnr_db"] = row["psnr_db"] if math.isfinite(row["psnr_db"]) else None
            click.echo(json.dumps({"bundle_id": pipeline.bundle_id, "backend": pipeline.backend, "pictures": rows}))
        else:
            click.echo(options.say_backend(pipeline))
