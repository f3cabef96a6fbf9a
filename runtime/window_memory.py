"""How much memory the caches of sliding windows take, and how many pictures are made at once within a bound."""

from __future__ import annotations

import dataclasses

from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.engine import Engine
from trt_vqgan.runtime.large_pictures import Windows
from trt_vqgan.runtime.memory import available_bytes, say_bytes
from trt_vqgan.runtime.window_plan import Rule, window_origin
from trt_vqgan.spec import ModelSpec

SHARE_OF_AVAILABLE = 0.75
"""Part of the available memory that caches may take where nobody gave a bound; the rest is for runs and pictures."""


def window_bytes(spec: ModelSpec, engine: Engine) -> int:
    """Return the bytes of one window's cache of one row, as ``engine`` keeps it.

    2 x layers x width x (condition and codes, in whole buckets) numbers: of 4 bytes on the CPU (where our kernels pad
    the values of a head to 16), of 2 on a GPU. A picture is one row, and two with guidance.
    """
    assert spec.condition is not None
    return engine.cache_bytes(batch=1, capacity=spec.condition.num_tokens + spec.num_codes)


def windows_alive(spec: ModelSpec, width: int, *, shift: int = 1) -> int:
    """Return the most windows of a grid of ``width`` codes whose caches are alive at once: one a column origin.

    Windows that begin in the same column predict at most ``side`` columns, and rows follow each other by ``side``
    steps, so the next of them begins when the one before is done. Without a shift that is width - side + 1. It is
    reached up to about side x side / 2 columns; in wider grids the first windows are done before the last ones begin.
    """
    side = spec.autoencoder.latent_size
    rule: Rule = "margin" if spec.condition is not None and spec.condition.kind == "boxes" else "centred"
    return len({window_origin(j, width, side=side, rule=rule, shift=shift) for j in range(width)})


def peak_window_bytes(spec: ModelSpec, engine: Engine, width: int, *, rows: int, shift: int = 1) -> int:
    """Return the most bytes of caches alive at once: rows x `windows_alive` x `window_bytes`."""
    return rows * windows_alive(spec, width, shift=shift) * window_bytes(spec, engine)


def within_memory(
    spec: ModelSpec,
    engine: Engine,
    windows: Windows,
    width: int,
    *,
    batch_size: int,
    rows_a_picture: int,
    available: int | None = None,
) -> tuple[int, Windows]:
    """Return how many pictures are made at once, and the windows with a bound on their caches.

    First fewer pictures are made at once; only where one picture's windows don't fit are some computed again. One
    window more than are alive is counted, as windows that are computed again need room meanwhile.

    Parameters
    ----------
    engine : keeps the caches.
    width : of the grid, codes.
    rows_a_picture : 2 with guidance, else 1.
    available : bytes that may be taken where ``windows`` has no bound; by default those that the system has.

    Raises
    ------
    ShapeError : not even one window fits.
    """
    one = rows_a_picture * window_bytes(spec, engine)
    alive = windows_alive(spec, width, shift=windows.shift) if windows.plan == "exact" else 0
    bound = windows.memory_bytes
    if bound is None:
        free = available if available is not None else available_bytes()
        if free is None:
            return batch_size, windows
        bound = int(SHARE_OF_AVAILABLE * free)
        if batch_size * (alive + 1) * one <= bound:
            return batch_size, windows
    if bound < one:
        raise ShapeError(
            f"memory_bytes: one window's cache takes {say_bytes(one)}, found {say_bytes(bound)}"
            + (" available; free some memory" if windows.memory_bytes is None else "; wanted at least that (--memory)")
        )
    pictures = min(batch_size, max(1, bound // ((alive + 1) * one)))
    return pictures, dataclasses.replace(windows, memory_bytes=bound)
