"""``python -m trt_vqgan.benchmarks.gpu_check``."""

from __future__ import annotations

import sys

from trt_vqgan.benchmarks.gpu_check.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
