"""The command line ``trt-vqgan``: one module a family of commands.

Command modules import numpy, ONNX Runtime and torch inside their functions, so that ``--help`` is quick.
"""

from __future__ import annotations

import click

import trt_vqgan
from trt_vqgan.cli.bench import bench
from trt_vqgan.cli.build import build
from trt_vqgan.cli.codes import decode, encode
from trt_vqgan.cli.commands import Commands, debug_option
from trt_vqgan.cli.embedding import embedding_options
from trt_vqgan.cli.export import export, verify
from trt_vqgan.cli.export_triton import export_triton
from trt_vqgan.cli.generate import generate
from trt_vqgan.cli.info import info
from trt_vqgan.cli.reconstruct import reconstruct
from trt_vqgan.cli.score import score
from trt_vqgan.cli.serve import serve


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(trt_vqgan.__version__, prog_name="trt-vqgan")
@embedding_options
@debug_option
def main() -> None:
    """Pictures from taming-transformers checkpoints.

    A checkpoint is exported once to a bundle of ONNX graphs; a bundle makes, encodes, decodes and scores pictures on
    the CPU, without torch. Exit status: 0 done, 1 it failed, 2 the arguments are wrong, 130 interrupted.
    """


for _command in (
    generate,
    reconstruct,
    encode,
    decode,
    score,
    info,
    export,
    verify,
    build,
    export_triton,
    serve,
    bench,
):
    main.add_command(_command)
