"""How far the formula of `trt_vqgan.runtime.memory` is from what decoding and encoding hold, at several sizes.

``python -m trt_vqgan.benchmarks.decode_memory [--side PIXELS …]`` prints a markdown table for the published f16 VQGAN
with random weights. Each size runs in a process of its own. Needs Linux and the package onnx.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from trt_vqgan.benchmarks.autoencoder_rows import open_autoencoder
from trt_vqgan.benchmarks.random_models import RandomWeights, write_autoencoder
from trt_vqgan.benchmarks.shapes import model_of_shape
from trt_vqgan.errors import TrtVqganError
from trt_vqgan.runtime.memory import decode_bytes, encode_bytes, say_bytes, tiled_bytes
from trt_vqgan.runtime.threads import available_threads
from trt_vqgan.runtime.tiled_decoder import decode_tiled, default_frame, default_overlap, default_tile
from trt_vqgan.spec import ModelSpec

WORK = ("decode", "decode in tiles", "encode")
SPEC = ModelSpec(autoencoder=model_of_shape(1, width=64).autoencoder)


def main(arguments: list[str] | None = None) -> None:
    """Print the table, or with ``--child`` the bytes of one run."""
    parser = argparse.ArgumentParser(prog="python -m trt_vqgan.benchmarks.decode_memory", description=__doc__)
    parser.add_argument("--side", type=int, action="append", help="side of the square picture, pixels; repeatable")
    parser.add_argument("--child", nargs=3, metavar=("FOLDER", "WORK", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        folder, work, side = options.child
        print(_held(Path(folder), work, int(side)))
        return
    print("| work | pixels | formula | measured | measured / formula |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        write_autoencoder(Path(folder), SPEC, RandomWeights(SPEC), precision="fp32")
        for side in options.side or [256, 512, 1024]:
            for work in WORK:
                found, formula = _measure(folder, work, side), _formula(work, side)
                print(
                    f"| {work} | {side}x{side} | {say_bytes(formula)} | {say_bytes(found)} | {found / formula:.2f} |",
                    flush=True,
                )


def _measure(folder: str, work: str, side: int) -> int:
    command = [sys.executable, "-m", "trt_vqgan.benchmarks.decode_memory", "--child", folder, work, str(side)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise TrtVqganError(f"decode_memory: {work} at {side}x{side} failed with exit status {done.returncode}")
    return int(done.stdout)


def _formula(work: str, side: int) -> int:
    codes = side // SPEC.autoencoder.factor
    if work == "decode in tiles":
        return tiled_bytes(SPEC.autoencoder, codes, codes, frame=default_frame(SPEC.autoencoder))
    return (encode_bytes if work == "encode" else decode_bytes)(SPEC.autoencoder, codes, codes)


def _held(folder: Path, work: str, side: int) -> int:
    """Return the most bytes that a run holds beyond what the process still holds after a run of one code."""
    spec = SPEC.autoencoder
    autoencoder = open_autoencoder(spec, folder, threads=available_threads())
    codes = np.random.default_rng(0).integers(0, spec.codebook_size, (1, side // spec.factor, side // spec.factor))
    maps = np.zeros((1, spec.in_channels, side, side), dtype=np.float32)
    if work == "encode":
        autoencoder.encode(maps[:, :, : spec.factor, : spec.factor])
    else:
        autoencoder.decode(codes[:, :1, :1])
    before = _status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of opening the graph
    if work == "encode":
        autoencoder.encode(maps)
    elif work == "decode":
        autoencoder.decode(codes)
    else:
        decode_tiled(
            autoencoder,
            codes,
            tile=default_tile(spec),
            overlap=default_overlap(spec),
            frame=default_frame(spec),
        )
    return _status_bytes("VmHWM") - before


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise TrtVqganError(f"decode_memory: /proc/self/status has no {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
