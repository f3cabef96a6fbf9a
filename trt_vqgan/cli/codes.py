"""``trt-vqgan encode`` and ``decode``: pictures to codes in a file, and back."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import click

from trt_vqgan.atomic_file import write_bytes
from trt_vqgan.cli import options
from trt_vqgan.cli.conditions import read_codes
from trt_vqgan.cli.outputs import picture_paths
from trt_vqgan.cli.progress import PicturesProgress
from trt_vqgan.errors import BundleError, ConditionError, ImageError


@click.command(short_help="Write pictures' codes to a file.")
@options.bundle_argument
@click.argument("images", type=options.PATH, nargs=-1, required=True, metavar="IMG...")
@click.option("-o", "--out", type=options.PATH, required=True, metavar="FILE.npz")
@options.running_options
def encode(
    bundle: Path,
    images: tuple[Path, ...],
    out: Path,
    backend: str,
    device: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Write the codes of each IMG, all of one size, to FILE.npz.

    The file holds `codes` int64 (B, h, w), the pictures' `size` (height, width) in pixels, and the `bundle_id`.
    """
    import numpy as np

    from trt_vqgan.runtime.images import pad_to_multiple, read_image

    if out.suffix != ".npz":
        raise click.UsageError(f"-o {out}: wanted a name that ends in .npz")
    height, width = read_image(images[0]).shape[:2]
    with options.open_bundle(bundle, backend=backend, device=device, threads=threads) as pipeline:
        autoencoder = pipeline.spec.autoencoder
        grids = []
        with PicturesProgress(len(images), quiet=as_json) as progress:
            for image in images:
                picture = read_image(image)
                if picture.shape[:2] != (height, width):
                    raise ImageError(
                        f"{image}: has {picture.shape[1]} x {picture.shape[0]} pixels, {images[0]} has {width} x "
                        f"{height}; one file holds codes of pictures of one size, encode it into another"
                    )
                grids.append(pipeline.encode(pad_to_multiple(picture, autoencoder.factor)[None])[0])
                progress.finished()
        codes = np.stack(grids)
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            codes=codes,
            size=np.array([height, width], dtype=np.int64),
            bundle_id=np.array(pipeline.bundle_id),
        )
        write_bytes(out, buffer.getvalue())
        bits = codes[0].size * math.log2(autoencoder.codebook_size) / (height * width)
        if as_json:
            report = {
                "bundle_id": pipeline.bundle_id,
                "backend": pipeline.backend,
                "file": str(out),
                "grid": list(codes.shape[1:]),
                "bits_per_pixel": bits,
            }
            click.echo(json.dumps(report))
        else:
            h, w = codes.shape[1:]
            named = str(images[0]) if len(images) == 1 else f"{len(images)} pictures"
            click.echo(
                f"{named}  {width}x{height}  {h}x{w} codes  {bits:.4f} bits a pixel  -> {out}\n"
                f"{options.say_backend(pipeline)}"
            )


@click.command(short_help="Write the pictures of codes in a file.")
@options.bundle_argument
@click.argument("file", type=options.PATH, metavar="FILE.npz")
@options.out_option
@click.option("--decode-tiles", is_flag=True, help="Decode in overlapping tiles: less memory, nearly the same.")
@options.picture_precision_option
@options.running_options
def decode(
    bundle: Path,
    file: Path,
    out: Path,
    decode_tiles: bool,
    picture_precision: str,
    backend: str,
    device: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Write the pictures of the codes in FILE.npz into OUT (a folder, or OUT.png for one).

    FILE.npz holds `codes` (B, h, w), from `trt-vqgan encode` or from elsewhere.
    """
    from trt_vqgan.runtime.images import write_png

    codes = read_codes(file, ("codes",))
    if codes.ndim != 3:
        raise ConditionError(f"{file}: codes have shape {codes.shape}, wanted (B, h, w)")
    made_by, size = _origin(file)
    names = [file.stem] if len(codes) == 1 else [f"{file.stem}-{i:05d}" for i in range(len(codes))]
    paths = picture_paths(out, names)
    with options.open_bundle(
        bundle, backend=backend, device=device, threads=threads, picture_precision=picture_precision
    ) as pipeline:
        if made_by is not None and made_by != pipeline.bundle_id:
            raise BundleError(
                f"{file}: its codes are of bundle {made_by}, this is bundle {pipeline.bundle_id}; "
                "give the bundle that encoded them"
            )
        with PicturesProgress(len(codes), quiet=as_json) as progress:
            for row, path in zip(codes, paths, strict=True):
                picture = pipeline.decode(row[None], tiles=decode_tiles)[0]
                if size is not None:
                    picture = picture[: size[0], : size[1]]
                write_png(path, picture)
                if not as_json:
                    progress.echo(f"{path}  {picture.shape[1]}x{picture.shape[0]}")
                progress.finished()
        if as_json:
            report = {"bundle_id": pipeline.bundle_id, "backend": pipeline.backend, "files": [str(p) for p in paths]}
            click.echo(json.dumps(report))
        else:
            click.echo(options.say_backend(pipeline))


def _origin(file: Path) -> tuple[str | None, tuple[int, int] | None]:
    """Return the bundle id and the size in pixels that `encode` wrote beside the codes; None where there are none."""
    import numpy as np

    try:
        with np.load(file, allow_pickle=False) as arrays:
            made_by = str(arrays["bundle_id"]) if "bundle_id" in arrays.files else None
            if "size" not in arrays.files:
                return made_by, None
            height, width = (int(side) for side in arrays["size"])
    except (OSError, ValueError, TypeError) as error:
        raise ConditionError(f"{file}: bundle_id or size can't be read ({error})") from None
    if height < 1 or width < 1:
        raise ConditionError(f"{file}: size is {height} x {width}, wanted pixels")
    return made_by, (height, width)
