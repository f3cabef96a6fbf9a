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

from trt_vqgan.cli import options
from trt_vqgan.cli.commands import Interrupted
from trt_vqgan.cli.conditions import check_condition, class_ids, file_condition, file_layout, read_codes
from trt_vqgan.cli.demo import chosen_bundle, demo_option, example_codes, takes_examples
from trt_vqgan.cli.editing import editing_arguments, editing_options
from trt_vqgan.cli.jobs import check_ray, chosen_job, job_options, run_job
from trt_vqgan.cli.outputs import picture_paths
from trt_vqgan.cli.progress import CodesProgress
from trt_vqgan.cli.records import Again, made_again
from trt_vqgan.cli.sizes import SIZE_SETTINGS, size_arguments, size_options
from trt_vqgan.cli.watching import Watcher, watching_options
from trt_vqgan.errors import BundleError
from trt_vqgan.runtime.demos import demo_bundle

if TYPE_CHECKING:
    from trt_vqgan.runtime.fitting import Fit
    from trt_vqgan.runtime.pipeline import Pipeline
    from trt_vqgan.runtime.png_metadata import GenerationRecord
    from trt_vqgan.runtime.requests import GenerateArguments, Request

MAX_SEED = (1 << 64) - 1


@click.command(short_help="Make pictures.")
@options.optional_bundle_argument
@options.out_option
@demo_option
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
@click.option(
    "--guidance",
    type=click.FloatRange(min=0),
    metavar="S",
    help="Follow the class S times as strongly; for models trained with a class that stands for none.",
)
@options.class_option
@options.file_condition_options
@options.condition_codes_option
@editing_options
@watching_options
@size_options
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
@click.option(
    "--deterministic",
    is_flag=True,
    help="On a GPU too, the same codes for a seed whatever --batch-size is; --backend cuda only. On the CPU always so.",
)
@job_options
@options.picture_precision_option
@options.running_options
def generate(
    bundle: Path | None,
    out: Path,
    demo: str | None,
    source: Path | None,
    grid: bool,
    npz: Path | None,
    animate: Path | None,
    preview: int | None,
    batch_size: int | None,
    deterministic: bool,
    picture_precision: str,
    ray: str | None,
    workers: int | None,
    shard_size: int | None,
    codes_only: bool,
    backend: str,
    device: str | None,
    threads: int | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Make pictures with BUNDLE into the folder OUT (or one picture into OUT.png).

    Without BUNDLE, the demo that ships with the package makes rendered landscapes. A class model without --class takes
    its classes in turn. Each PNG carries its settings, so that --from can make it again.
    """
    of_one_run = {"grid": grid, "npz": npz, "animate": animate, "preview": preview, "source": source}
    job = chosen_job(ray=ray, workers=workers, shard_size=shard_size, codes_only=codes_only, backend=backend,
                     device=device, settings=of_one_run)  # fmt: skip
    check_ray(job)
    record = _record(source, settings) if source is not None else None
    chosen = chosen_bundle(bundle, demo)
    own_threads = threads if job is None or job.ray is None else None  # on Ray they are a worker's
    with options.open_bundle(
        chosen,
        backend=backend,
        device=device,
        threads=own_threads,
        deterministic=deterministic,
        picture_precision=picture_precision,
    ) as pipeline:
        again = None
        if record is not None and source is not None:
            again = made_again(pipeline, record, source)
        arguments = _arguments(pipeline, settings, demo) if again is None else again.arguments
        arguments |= {"batch_size": batch_size}
        if job is not None:
            request = pipeline.request(**arguments)
            run_job(job, pipeline, request, out, bundle=chosen or demo_bundle(), threads=threads, as_json=as_json)
            return
        work = _Work(
            pipeline=pipeline, arguments=arguments, out=out, grid=grid, npz=npz,
            animate=animate, preview=preview, again=again,
        )  # fmt: skip
        start = time.perf_counter()
        report = work.make(quiet=as_json)
        seconds = time.perf_counter() - start
        count = len(report["pictures"])
        codes_per_second = count * report.pop("codes_a_picture") / max(seconds, 1e-9)
        if as_json:
            about = {
                "bundle_id": pipeline.bundle_id,
                "backend": pipeline.backend,
                "precision": pipeline.precision,
                "threads": pipeline.threads,
                "codes_per_second": codes_per_second,
            }
            click.echo(json.dumps(about | report))
        else:
            made = "1 picture" if count == 1 else f"{count} pictures"
            again_said = ""
            if report["windows_recomputed"]:
                again_said = f"; {report['windows_recomputed']} windows were computed again to stay within memory"
            click.echo(f"{made} in {out} ({options.say_backend(pipeline)}, {codes_per_second:.0f} codes/s{again_said})")


def _record(source: Path, settings: dict[str, Any]) -> GenerationRecord:
    from trt_vqgan.runtime.png_metadata import read_generation_record

    names = {"classes": "class"}
    given = [
        f"--{names.get(name, name).replace('_', '-')}"
        for name, value in settings.items()
        if value is not None and value is not False and value != ()
    ]
    if given:
        raise click.UsageError(f"--from takes every setting from the PNG, leave {given[0]} out")
    return read_generation_record(source)


def _arguments(pipeline: Pipeline, settings: dict[str, Any], demo: str | None) -> GenerateArguments:
    """Return the arguments of `Pipeline.request` that the options stand for."""
    manifest = pipeline.manifest
    classes, codes_file = settings["classes"], settings["condition_codes"]
    fit: Fit = settings["fit"] or "crop"
    files = {name: settings[name] for name in options.FILE_CONDITIONS}
    shift_labels = settings["shift_labels"]
    shown = demo if takes_examples(demo, settings) else None
    if shown is None:
        check_condition(manifest, codes_file, classes, files, shift_labels=shift_labels)
    editing = editing_arguments(**{name: settings[name] for name in ("init", "keep", "resample", "paste")})
    large = size_arguments(**{name: settings[name] for name in SIZE_SETTINGS})
    codes = layout = None
    if shown is not None:
        codes = example_codes(pipeline, shown, fit=fit, size=large.get("size"))
    elif codes_file is not None:
        codes = read_codes(codes_file)
    elif files["layout"] is not None and large.get("size") is not None:
        layout = file_layout(pipeline, files["layout"])  # each window of a larger picture has tokens of its own
    else:
        codes = file_condition(pipeline, files, fit, large.get("size"), shift_labels=shift_labels)
    ids = class_ids(manifest, classes) if codes is None and layout is None else []
    number = settings["number"]
    if number is None and ids and not classes:
        number = 1
    arguments: GenerateArguments = {
        "n": number,
        "seed": settings["seed"] or 0,
        "class_id": ids or None,
        "condition_codes": codes,
        "layout": layout,
        "fit": fit,
        "guidance": settings["guidance"],
        "temperature": settings["temperature"],
        "top_k": settings["top_k"],
        "top_p": settings["top_p"],
        "greedy": settings["greedy"],
    }
    return arguments | editing | large


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Work:
    """What to make and where it goes."""

    pipeline: Pipeline
    arguments: GenerateArguments
    out: Path
    grid: bool
    npz: Path | None
    animate: Path | None
    preview: int | None
    again: Again | None

    def make(self, *, quiet: bool) -> dict[str, Any]:
        """Write every picture as it is made; return what was written, JSON-ready."""
        request = self.pipeline.request(**self.arguments)
        names = [f"{request.seed}-{request.first_picture + i:05d}" for i in range(request.count)]
        paths = picture_paths(self.out, names)
        if self.grid and paths[0] == self.out:
            raise click.UsageError("--grid writes OUT/grid.png, so OUT must be a folder")
        written: list[dict[str, Any]] = []
        try:
            grid = self._write(request, paths, written, quiet=quiet)
        except KeyboardInterrupt:
            raise Interrupted(f"{len(written)} of {request.count} pictures are written to {paths[0].parent}") from None
        factor = self.pipeline.spec.autoencoder.factor
        return {
            "codes_a_picture": request.size[0] * request.size[1] // factor**2,
            "windows_recomputed": request.window_report.windows_recomputed,
            "pictures": written,
            "grid": None if grid is None else str(grid),
            "npz": None if self.npz is None else str(self.npz),
            "animation": None if self.animate is None else str(self.animate),
        }

    def _write(
        self, request: Request, paths: Sequence[Path], written: list[dict[str, Any]], *, quiet: bool
    ) -> Path | None:
        from trt_vqgan.runtime.contact_sheet import ContactSheet
        from trt_vqgan.runtime.image_npz import image_npz
        from trt_vqgan.runtime.images import write_png
        from trt_vqgan.runtime.picture_records import as_grid, record_of

        spec = self.pipeline.spec
        height, width = request.size
        is_class = spec.condition is not None and spec.condition.kind == "class"
        sheet = ContactSheet(request.count, height, width) if self.grid else None
        with contextlib.ExitStack() as stack:
            watcher = self._watcher(request, paths)
            if watcher is not None:
                stack.enter_context(watcher)
                request = dataclasses.replace(
                    request, on_preview=watcher, preview_every=self.preview or request.preview_every
                )
            add_to_npz = None
            if self.npz is not None:
                labels = [int(class_id) for class_id in request.conditions[:, 0]] if is_class else None
                add_to_npz = stack.enter_context(
                    image_npz(self.npz, count=request.count, height=height, width=width, labels=labels)
                )
            progress = stack.enter_context(CodesProgress(quiet=quiet))
            request = dataclasses.replace(request, on_progress=progress)
            for picture, codes, image in self.pipeline.run(request):
                index = picture - request.first_picture
                record = record_of(self.pipeline, request, picture, codes)
                if self.again is not None:
                    image = self.again.finish(image)
                    record = dataclasses.replace(record, pasted=self.again.pasted)
                write_png(paths[index], image, record.to_text_chunk())
                about = {"class_id": record.class_id, "class_name": record.class_name} if is_class else {}
                written.append({"file": str(paths[index]), "picture": picture, "seed": request.seed} | about)
                if watcher is not None:
                    watcher.finished(index, image)
                if sheet is not None:
                    sheet.put(index, image)
                if add_to_npz is not None:
                    add_to_npz(image)
                if self.again is not None and as_grid(codes) != self.again.codes:
                    raise BundleError(
                        f"{paths[index]}: its codes differ from those that the PNG carries, so it is another picture; "
                        "it was made by another version, precision or processor"
                    )
        if sheet is None:
            return None
        write_png(self.out / "grid.png", sheet.image)
        return self.out / "grid.png"

    def _watcher(self, request: Request, paths: Sequence[Path]) -> Watcher | None:
        if self.preview is None and self.animate is None:
            return None
        every = self.preview or request.preview_every
        codes = request.size[0] * request.size[1] // self.pipeline.spec.autoencoder.factor**2
        return Watcher(
            paths,
            first=request.first_picture,
            batch_size=request.batch_size,
            size=request.size,
            steps=codes // every,
            previews=self.preview is not None,
            animate=self.animate,
        )
