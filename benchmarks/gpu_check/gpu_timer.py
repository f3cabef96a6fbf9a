"""Times on the GPU's own clock, through torch's events, for our stream and for torch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

WARM_UPS = 10
REPEATS = 30
SHORT_LAUNCHES = 50
"""Launches in one graph, so that a short kernel is measured and not the graph's own start."""


def stream_times(stream: int, once: Callable[[], None], *, repeats: int = REPEATS, pieces: int = 1) -> list[float]:
    """Return seconds of each repetition of ``once``, which issues to a stream of ours, over its ``pieces``."""
    ours = torch.cuda.ExternalStream(stream)  # type: ignore[no-untyped-call]
    return _times(ours, once, repeats=repeats, pieces=pieces)


def torch_times(work: Sequence[Callable[[], object]], *, repeats: int = REPEATS) -> list[float]:
    """Return seconds of one call of ``work``, captured together in a CUDA graph of torch and replayed."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        for each in work:
            each()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for each in work:
            each()
    return _times(stream, graph.replay, repeats=repeats, pieces=len(work))


def _times(stream: torch.cuda.Stream, once: Callable[[], None], *, repeats: int, pieces: int) -> list[float]:
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            once()
        marks = [(_event(), _event()) for _ in range(repeats)]
        for begin, end in marks:
            begin.record(stream)
            once()
            end.record(stream)
        stream.synchronize()
    return [begin.elapsed_time(end) / 1e3 / pieces for begin, end in marks]


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
