"""How much memory pictures of any size take, from the sizes of the VQGAN alone, and how much there is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from trt_vqgan.errors import ShapeError
from trt_vqgan.spec import AutoencoderSpec

LIVE_ACTIVATIONS = 9
"""Activations of the largest level that are held at once, at most; docs/large-pictures.md has measurements."""

LIVE_SCORES = 3
"""Arrays of attention scores, positions x positions, that are held at once."""

BAND_COPIES = 4
"""Float32 bands of pixels alive at once in `tiled_decoder`, at most: the tail above, the band, scaled, and clipped."""

FLOAT_BYTES = 4

_MEMINFO = Path("/proc/meminfo")
_OWN_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def decode_bytes(spec: AutoencoderSpec, height: int, width: int) -> int:
    """Return the most bytes that decoding one grid of height x width codes holds beside the weights.

    Notes
    -----
    9 x 4 x the largest level, plus 3 x 4 x (positions)^2 of the largest attention.
    """
    if height < 1 or width < 1:
        raise ShapeError(f"memory: found a grid of {width}x{height} codes, wanted at least 1x1")
    largest = largest_activation(spec, height, width)
    return FLOAT_BYTES * (LIVE_ACTIVATIONS * largest + LIVE_SCORES * _attended(spec, height, width) ** 2)


def largest_activation(spec: AutoencoderSpec, height: int, width: int) -> int:
    """Return the numbers in the largest activation of a grid of height x width codes.

    A level i has H W / 4^i positions of as many channels as it or the next lower one has, since the upsampled picture
    keeps the width from below.
    """
    widths = [spec.base_channels * multiplier for multiplier in spec.channel_multipliers]
    pixels = height * width * spec.factor**2
    return max((pixels >> 2 * level) * max(widths[level : level + 2]) for level in range(len(widths)))


def encode_bytes(spec: AutoencoderSpec, height: int, width: int) -> int:
    """Return the most bytes that encoding a picture of height x width codes holds beside the weights.

    The decoder's formula, as an encoder passes the same levels the other way and holds fewer activations at once, and
    the picture or condition map in float32, which for labels is wider than any level.
    """
    maps = FLOAT_BYTES * height * width * spec.factor**2 * spec.in_channels
    return decode_bytes(spec, height, width) + maps


def tiled_bytes(spec: AutoencoderSpec, height: int, width: int, *, frame: int) -> int:
    """Return the most bytes that decoding in tiles holds, the finished picture included.

    ``frame`` is the side of what is decoded at once, codes: the frame, or the tile where there is none. Beside it: a
    band of pixels, at most as high as that and as wide as the picture, of which float32 copies are made while it is
    blended and rounded, and the picture itself.
    """
    row = width * spec.factor * spec.out_channels
    rows = min(frame, height) * spec.factor
    picture = height * spec.factor * row
    return decode_bytes(spec, min(frame, height), min(frame, width)) + BAND_COPIES * FLOAT_BYTES * rows * row + picture


def available_bytes() -> int | None:
    """Return the bytes that this process may still take, or None where the system doesn't say.

    The least of what the system has without swapping and what each cgroup around this process has left of its limit.
    Files in a cgroup's page cache that are not in use count as free, as the kernel drops them first.
    """
    found = [left for left in (_system_available(), *_cgroups_left()) if left is not None]
    return max(0, min(found)) if found else None


def check_picture_memory(
    spec: AutoencoderSpec,
    width: int,
    height: int,
    *,
    tiled: bool,
    frame: int | None = None,
    available: int | None = None,
) -> None:
    """Raise ShapeError where a picture of width x height pixels can't be decoded in the memory that there is.

    Parameters
    ----------
    width, height : pixels; a side that is no multiple of the factor counts up to the next one.
    tiled : decoded in tiles within frames of ``frame`` x ``frame`` codes, by default `tiled_decoder.default_frame`.
    available : bytes that may be taken; by default `available_bytes`. Where the system doesn't say, only the limit of
        `images.MAX_PIXELS` holds.

    Raises
    ------
    ShapeError : too large; says the bytes that it needs, what there is, and what would fit.
    """
    # not at the top: they bring ONNX Runtime and Pillow, which nothing else here needs
    from trt_vqgan.runtime.images import MAX_PIXELS
    from trt_vqgan.runtime.tiled_decoder import default_frame

    if width < 1 or height < 1:
        raise ShapeError(f"size: found {width}x{height} pixels, wanted at least 1x1")
    side = frame if frame is not None else default_frame(spec)
    grid = (-(-height // spec.factor), -(-width // spec.factor))

    def in_tiles(rows: int, columns: int) -> int:
        return tiled_bytes(spec, rows, columns, frame=side)

    def whole(rows: int, columns: int) -> int:
        return decode_bytes(spec, rows, columns) + rows * columns * spec.factor**2 * spec.out_channels

    need = in_tiles(*grid) if tiled else whole(*grid)
    how = " in tiles" if tiled else ""
    if width * height > MAX_PIXELS:
        raise ShapeError(
            f"size: {width}x{height} is {width * height} pixels, at most {MAX_PIXELS} are written, and decoding "
            f"them{how} needs {say_bytes(need)} of memory; choose a smaller size"
        )
    free = available if available is not None else available_bytes()
    if free is None or need <= free:
        return
    advice = []
    if not tiled and in_tiles(*grid) <= free:
        advice.append(f"decode it in tiles (--decode-tiles, {say_bytes(in_tiles(*grid))})")
    fitting = _largest_square(in_tiles if tiled else whole, free)
    if fitting:
        pixels = fitting * spec.factor
        advice.append(f"choose a smaller size ({pixels}x{pixels} fits)")
    raise ShapeError(
        f"size: decoding {width}x{height} pixels{how} needs {say_bytes(need)} of memory, {say_bytes(free)} are "
        f"available; {' or '.join(advice) or 'free some memory'}"
    )


def check_encode_memory(
    spec: AutoencoderSpec, width: int, height: int, *, what: str, available: int | None = None
) -> None:
    """Raise ShapeError where ``what`` of width x height pixels can't be encoded in the memory that there is.

    Parameters
    ----------
    what : is encoded, such as "depth".
    available : bytes that may be taken; by default `available_bytes`.
    """
    from trt_vqgan.runtime.images import MAX_PIXELS  # not at the top, as above

    need = encode_bytes(spec, -(-height // spec.factor), -(-width // spec.factor))
    free = available if available is not None else available_bytes()
    if width * height > MAX_PIXELS or (free is not None and need > free):
        limit = f"{say_bytes(free or 0)} are available"
        if width * height > MAX_PIXELS:
            limit = f"at most {MAX_PIXELS} pixels are encoded"
        raise ShapeError(
            f"size: encoding {what} of {width}x{height} = {width * height} pixels needs {say_bytes(need)} of memory, "
            f"{limit}; choose a smaller size"
        )


def say_bytes(count: int) -> str:
    """Return a number of bytes for people, in decimal units: "1.2 GB", "80 MB"."""
    for unit, size in (("TB", 10**12), ("GB", 10**9)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{-(-count // 10**6)} MB"


def _attended(spec: AutoencoderSpec, height: int, width: int) -> int:
    """Return the positions of the largest level that carries attention."""
    if not spec.use_attention:
        return 0
    levels = range(len(spec.channel_multipliers))
    factors = [spec.factor >> i for i in levels if spec.resolution >> i in spec.attention_resolutions]
    return height * width * max([1, *factors]) ** 2  # the middle attends at one position a code


def _largest_square(need: Callable[[int, int], int], free: int) -> int:
    """Return the side in codes of the largest square grid that fits, 0 for none."""
    low, high = 0, 1 << 16
    while low < high:
        side = (low + high + 1) // 2
        low, high = (side, high) if need(side, side) <= free else (low, side - 1)
    return low


def _system_available() -> int | None:
    try:
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # macOS says no more than this
    except (AttributeError, ValueError, OSError):
        return None


def _cgroups_left() -> Iterator[int]:
    """Yield what is left of the memory limit of this process's cgroup and of each one around it."""
    try:
        entries = [line.split(":", 2) for line in _OWN_CGROUP.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return
    for entry in entries:
        if len(entry) != 3:
            continue
        hierarchy, controllers, path = entry
        if hierarchy == "0" and not controllers:
            root, names = _CGROUPS, _V2
        elif "memory" in controllers.split(","):
            root, names = _CGROUPS / "memory", _V1
        else:
            continue
        # inside a container the path may name folders that only its host sees; the root is then the container's own
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            left = _left(folder, *names)
            if left is not None:
                yield left
            if folder == root:
                break


def _left(folder: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    """Return limit - usage + reclaimable of one cgroup, or None where it has no limit."""
    try:
        bound, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
        if bound == "max":
            return None
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(bound) - used + int(stat.get(reclaimable, 0))
    except (OSError, ValueError):
        return None
