"""``trt-vqgan generate``: pictures."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import trt_vqgan
from trt_vqgan.cli import options
from trt_vqgan.cli.commands import Interrupted
from trt_vqgan.cli.conditions import check_condition, class_ids, read_codes
from trt_vqgan.cli.outputs import picture_paths
from trt_vqgan.cli.progress import CodesProgress
from trt_vqgan.errors import BundleError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from trt_vqgan.runtime.pipeline import Pipeline
    from trt_vqgan.runtime.png_metadata import GenerationRecord

MAX_SEED = (1 << 64) - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What to make: picture ``first + i`` of ``seed`` for i in 0 … n-1.

    ``classes`` and ``condition_codes`` are taken in turn; ``expected_codes`` are what a picture is to be made again of.
    """

    n: int
    seed: int
    first: int
    temperature: float
    top_k: int
    top_p: float
    greedy: bool
    classes: Sequence[int] = ()
    condition_codes: npt.NDArray[np.int64] | None = None
    expected_codes: tuple[tuple[int, ...], ...] | None = None

    def class_of(self, index: int) -> int | None:
        """Return the class of picture ``first + index``."""
        return self.classes[index % len(self.classes)] if self.classes else None

    def condition_of(self, index: int) -> npt.NDArray[np.int64] | None:
        """Return the condition codes of picture ``first + index``, (L,) or (h, w)."""
        if self.condition_codes is None:
            return None
        row: npt.NDArray[np.int64] = self.condition_codes[index % len(self.condition_codes)]
        return row


@click.command(short_help="Make pictures.")
@options.optional_bundle_argument
@options.out_option
@click.option("-n", "--number", type=click.IntRange(min=1), help="Pictures.  [default: one a condition]")
@click.option("--seed", type=click.IntRange(0, MAX_SEED), help="Same seed, same pictures.  [default: 0]")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    help="Divides the logits: lower is safer, higher is wilder.  [default: the bundle's]",
)
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    help="Draw from the K likeliest codes; the codebook's size keeps all.  [default: the bundle's]",
)
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1),
    help="Draw from the likeliest codes up to this probability; 1 keeps all.  [default: the bundle's]",
)
@click.option("--greedy", is_flag=True, help="Take the likeliest code each time; no chance in it.")
@options.class_option
@options.condition_codes_option
@click.option("--grid", is_flag=True, help="Also write all pictures on one, OUT/grid.png.")
@click.option(
    "--npz",
    type=options.PATH,
    metavar="FILE",
    help="Also write all pictures to FILE: arr_0 uint8 (N, H, W, 3), arr_1 class ids; FID tools read it.",
)
@click.option(
    "--from",
    "source",
    type=options.PATH,
    metavar="PNG",
    help="Make the picture in this PNG again, from the settings that it carries.",
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Pictures made at once; bounds memory.  [default: 8]")
@options.running_options
def generate(
    bundle: Path | None,
    out: Path,
    classes: tuple[str, ...],
    condition_codes: Path | None,
    source: Path | None,
    grid: bool,
    npz: Path | None,
    batch_size: int | None,
    backend: str,
    threads: int | None,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Make pictures with BUNDLE into the folder OUT (or one picture into OUT.png).

    Without BUNDLE, the demo that ships with the package makes rendered landscapes. A class model without --class takes
    its classes in turn. Each PNG carries its settings, so that --from can make it again.
    """
    record = _record(source, classes, condition_codes, sampling) if source is not None else None
    with options.open_bundle(bundle, backend=backend, threads=threads) as pipeline:
        if record is not None:
            request = _again(pipeline, record, source)
        else:
            request = _request(pipeline, classes, condition_codes, sampling)
        paths = picture_paths(out, [f"{request.seed}-{request.first + i:05d}" for i in range(request.n)])
        if grid and paths[0] == out:
            raise click.UsageError("--grid writes OUT/grid.png, so OUT must be a folder")
        start = time.perf_counter()
        report = _make(
            pipeline, request, paths, grid=out / "grid.png" if grid else None, npz=npz, batch_size=batch_size,
            quiet=as_json,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        spec = pipeline.spec
        codes_per_second = request.n * spec.num_codes / max(seconds, 1e-9)
        if as_json:
            settings = {
                "bundle_id": pipeline.bundle_id,
                "backend": pipeline.backend,
                "precision": pipeline.precision,
                "threads": pipeline.threads,
                "codes_per_second": codes_per_second,
            }
            click.echo(json.dumps(settings | report))
        else:
            made = "1 picture" if request.n == 1 else f"{request.n} pictures"
            click.echo(f"{made} in {out} ({options.say_backend(pipeline)}, {codes_per_second:.0f} codes/s)")


def _record(
    source: Path, classes: Sequence[str], condition_codes: Path | None, sampling: dict[str, Any]
) -> GenerationRecord:
    from trt_vqgan.runtime.png_metadata import read_generation_record

    given = [
        f"--{name.replace('_', '-')}" for name, value in sampling.items() if value is not None and value is not False
    ]
    given += ["--class"] * bool(classes) + ["--condition-codes"] * (condition_codes is not None)
    if given:
        raise click.UsageError(f"--from takes every setting from the PNG, leave {given[0]} out")
    return read_generation_record(source)


def _again(pipeline: Pipeline, record: GenerationRecord, source: Path | None) -> Request:
    import numpy as np

    if record.bundle_id != pipeline.bundle_id:
        raise BundleError(
            f"{source}: was made with bundle {record.bundle_id}, this is bundle {pipeline.bundle_id}; "
            "give the bundle that made it"
        )
    condition = None
    if record.condition_codes is not None:
        condition = np.array([record.condition_codes], dtype=np.int64)
    return Request(
        n=1,
        seed=record.seed,
        first=record.picture,
        temperature=record.temperature,
        top_k=record.top_k,
        top_p=record.top_p,
        greedy=record.greedy,
        classes=() if record.class_id is None else (record.class_id,),
        condition_codes=condition,
        expected_codes=record.codes,
    )


def _request(
    pipeline: Pipeline, classes: Sequence[str], condition_codes: Path | None, sampling: dict[str, Any]
) -> Request:
    manifest = pipeline.manifest
    check_condition(manifest, condition_codes, classes)
    ids = class_ids(manifest, classes) if condition_codes is None else []
    codes = read_codes(condition_codes) if condition_codes is not None else None
    assert manifest.model.transformer is not None, "check_condition lets no bundle without a transformer through"
    defaults = manifest.sampling
    number = sampling["number"]
    if number is None:
        number = len(codes) if codes is not None else max(1, len(ids) if classes else 1)
    top_k = sampling["top_k"] if sampling["top_k"] is not None else defaults.top_k
    top_p = sampling["top_p"] if sampling["top_p"] is not None else defaults.top_p
    return Request(
        n=number,
        seed=sampling["seed"] or 0,
        first=0,
        temperature=sampling["temperature"] if sampling["temperature"] is not None else defaults.temperature,
        # Every code, in numbers: a record must not depend on a bundle's defaults.
        top_k=top_k if top_k is not None else manifest.model.transformer.vocab_size,
        top_p=top_p if top_p is not None else 1.0,
        greedy=sampling["greedy"],
        classes=ids,
        condition_codes=codes,
    )


def _make(
    pipeline: Pipeline,
    request: Request,
    paths: Sequence[Path],
    *,
    grid: Path | None,
    npz: Path | None,
    batch_size: int | None,
    quiet: bool,
) -> dict[str, Any]:
    """Write every picture as it is made; return what was written, JSON-ready."""
    import numpy as np

    from trt_vqgan.runtime.contact_sheet import ContactSheet
    from trt_vqgan.runtime.image_npz import image_npz
    from trt_vqgan.runtime.images import write_png

    labels = [label for label in map(request.class_of, range(request.n)) if label is not None]
    conditions = [row for row in map(request.condition_of, range(request.n)) if row is not None]
    side = pipeline.spec.autoencoder.resolution
    sheet = ContactSheet(request.n, side, side) if grid is not None else None
    written: list[dict[str, Any]] = []
    try:
        with contextlib.ExitStack() as stack:
            progress = stack.enter_context(CodesProgress(quiet=quiet))
            add_to_npz = None
            if npz is not None:
                add_to_npz = stack.enter_context(
                    image_npz(npz, count=request.n, height=side, width=side, labels=labels or None)
                )
            stream = pipeline.generate_stream(
                n=request.n,
                seed=request.seed,
                class_id=labels or None,
                condition_codes=np.stack(conditions) if conditions else None,
                temperature=request.temperature,
                top_k=request.top_k,
                top_p=request.top_p,
                greedy=request.greedy,
                batch_size=batch_size,
                first_picture=request.first,
                on_progress=progress,
            )
            for picture, codes, image in stream:
                index = picture - request.first
                record = _record_of(pipeline, request, picture, codes)
                write_png(paths[index], image, record.to_text_chunk())
                written.append(
                    {"file": str(paths[index]), "picture": picture, "seed": request.seed}
                    | ({"class_id": record.class_id, "class_name": record.class_name} if request.classes else {})
                )
                if sheet is not None:
                    sheet.put(index, image)
                if add_to_npz is not None:
                    add_to_npz(image)
                if request.expected_codes is not None and record.codes != request.expected_codes:
                    raise BundleError(
                        f"{paths[index]}: its codes differ from those that the PNG carries, so it is another picture; "
                        "it was made by another version, precision or processor"
                    )
    except KeyboardInterrupt:
        raise Interrupted(f"{len(written)} of {request.n} pictures are written to {paths[0].parent}") from None
    if sheet is not None and grid is not None:
        write_png(grid, sheet.image)
    return {
        "pictures": written,
        "grid": None if grid is None else str(grid),
        "npz": None if npz is None else str(npz),
    }


def _record_of(pipeline: Pipeline, request: Request, picture: int, codes: npt.NDArray[np.int64]) -> GenerationRecord:
    from trt_vqgan.runtime.png_metadata import GenerationRecord

    index = picture - request.first
    class_id, condition = request.class_of(index), request.condition_of(index)
    names = pipeline.manifest.class_names
    return GenerationRecord(
        version=trt_vqgan.__version__,
        bundle_id=pipeline.bundle_id,
        seed=request.seed,
        picture=picture,
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        greedy=request.greedy,
        codes=tuple(tuple(int(code) for code in row) for row in codes),
        class_id=class_id,
        class_name=names[class_id] if names and class_id is not None else None,
        condition_codes=None if condition is None else tuple(int(code) for code in condition.reshape(-1)),
    )
