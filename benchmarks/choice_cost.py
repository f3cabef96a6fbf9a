"""``python -m trt_vqgan.benchmarks.choice_cost 12x768``: what `export --precision auto` costs before it writes.

Of a model of random weights, whose int4 diverges enough for mixtures to be tried. Prints when each stage began, what
was chosen, and the peak of the process's memory.
"""

from __future__ import annotations

import argparse
import time

from trt_vqgan.benchmarks.arguments import shape_argument
from trt_vqgan.benchmarks.fresh_process import peak_bytes
from trt_vqgan.benchmarks.random_models import RandomWeights
from trt_vqgan.benchmarks.shapes import model_of_shape
from trt_vqgan.export.precision_choice import choose_precision
from trt_vqgan.manifest import SamplingDefaults


def main(arguments: list[str] | None = None) -> None:
    """Choose and print."""
    parser = argparse.ArgumentParser(prog="python -m trt_vqgan.benchmarks.choice_cost", description=__doc__)
    parser.add_argument("shape", type=shape_argument, metavar="LAYERSxWIDTH")
    layers, width = parser.parse_args(arguments).shape
    spec = model_of_shape(layers, width=width)
    started = time.perf_counter()

    def say(stage: str) -> None:
        print(f"{time.perf_counter() - started:7.1f} s  {stage}", flush=True)

    choice = choose_precision(spec, RandomWeights(spec), sampling=SamplingDefaults(top_k=250), say=say)
    say(choice.told)
    peak = peak_bytes()
    print("peak unknown" if peak is None else f"peak {peak / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
