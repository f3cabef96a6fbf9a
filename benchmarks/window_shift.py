"""What ``--window-shift`` costs: the codes that it draws, scored under the exact windows, and their pictures.

``python -m trt_vqgan.benchmarks.window_shift [--bundle FOLDER] [--codes 32] [--picture FILE.png]`` prints a markdown
table. Each class of the bundle gets a picture with every shift, seed 0, drawn with the bundle's defaults; each code is
then scored by the window that would have drawn it without a shift, over the whole vocabulary at temperature 1.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

import trt_vqgan
from trt_vqgan.benchmarks.arguments import file_argument
from trt_vqgan.errors import SpecError
from trt_vqgan.runtime.contact_sheet import ContactSheet
from trt_vqgan.runtime.images import write_png
from trt_vqgan.runtime.pipeline import Pipeline
from trt_vqgan.runtime.window_plan import Task, plan_windows

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

SHIFTS = (1, 2, 4, 8)
WINDOWS_AT_ONCE = 16


def nats_under_exact_windows(pipe: Pipeline, codes: Int64Array, class_id: int) -> FloatArray:
    """Return -log of each code's probability in its window without a shift, nats, float64 (h, w).

    Parameters
    ----------
    codes : int64 (h, w) of one picture of a class model.
    """
    side = pipe.spec.autoencoder.latent_size
    served: dict[tuple[int, int], list[Task]] = defaultdict(list)
    for step in plan_windows(np.ones(codes.shape, dtype=np.bool_), side=side):
        for task in step:
            served[task.origin].append(task)
    origins = list(served)
    nats = np.empty(codes.shape)
    for start in range(0, len(origins), WINDOWS_AT_ONCE):
        group = origins[start : start + WINDOWS_AT_ONCE]
        windows = np.stack([codes[i : i + side, j : j + side] for i, j in group])
        logits = pipe.logits(np.array([[class_id]]), windows).astype(np.float64)
        for origin, predicted in zip(group, logits, strict=True):
            for task in served[origin]:
                row = predicted[task.prefix]
                peak = row.max()
                chosen = row[codes[task.row, task.column]]
                nats[task.row, task.column] = peak + np.log(np.exp(row - peak).sum()) - chosen
    return nats


def measure(pipe: Pipeline, *, side: int, picture: Path | None = None, shifts: tuple[int, ...] = SHIFTS) -> list[str]:
    """Return the table of grids of ``side`` x ``side`` codes; write the pictures, a row a class, a column a shift."""
    condition = pipe.spec.condition
    if condition is None or condition.kind != "class":
        raise SpecError("the pictures are of classes, this bundle holds no class model; give one that does")
    classes = [i for i in range(condition.num_classes) if i != pipe.manifest.null_class]
    pixels = side * pipe.spec.autoencoder.factor
    sheet = ContactSheet(len(classes) * len(shifts), pixels, pixels, columns=len(shifts))
    rows = [
        "| shift | nats a code | beyond shift 1 | largest of a picture | positions computed a code |",
        "|---|---|---|---|---|",
    ]
    first: FloatArray | None = None
    for column, shift in enumerate(shifts):
        made = pipe.generate(class_id=classes, seed=0, size=(pixels, pixels), window_shift=shift)
        scores = [nats_under_exact_windows(pipe, codes, i).mean() for codes, i in zip(made.codes, classes, strict=True)]
        nats = np.array(scores)
        first = nats if first is None else first
        beyond = nats - first
        positions = made.window_report.positions_computed / side**2
        rows.append(f"| {shift} | {nats.mean():.3f} | {beyond.mean():+.3f} | {beyond.max():+.3f} | {positions:.0f} |")
        for row, image in enumerate(made.images):
            sheet.put(row * len(shifts) + column, image)
    if picture is not None:
        write_png(picture, sheet.image)
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m trt_vqgan.benchmarks.window_shift", description=__doc__)
    parser.add_argument("--bundle", type=Path, help="a class model; the demo by default")
    parser.add_argument("--codes", type=int, default=32, help="side of the grids, codes (32)")
    parser.add_argument("--picture", type=file_argument, help="write the pictures to this PNG")
    options = parser.parse_args(arguments)
    with trt_vqgan.load(options.bundle) as pipe:
        print("\n".join(measure(pipe, side=options.codes, picture=options.picture)))


if __name__ == "__main__":
    main(sys.argv[1:])
