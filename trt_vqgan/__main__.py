"""``python -m trt_vqgan``: the command line."""

from __future__ import annotations

from trt_vqgan.cli import main

if __name__ == "__main__":
    main()
