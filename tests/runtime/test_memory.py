"""What memory pictures take, what there is, and the refusal of what can't fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from trt_vqgan.benchmarks.shapes import PUBLISHED_F16 as F16
from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime import memory
from trt_vqgan.runtime.memory import (
    available_bytes,
    check_encode_memory,
    check_picture_memory,
    decode_bytes,
    encode_bytes,
    say_bytes,
    tiled_bytes,
)

GIB = 1 << 30


def test_the_published_decoder_by_hand() -> None:
    # 9 float32 maps of 128 channels at 256x256, and 3 of 256 x 256 scores
    assert decode_bytes(F16, 16, 16) == 9 * 4 * 128 * 256 * 256 + 3 * 4 * 256**2
    assert decode_bytes(F16, 128, 128) == 9 * 4 * 128 * 2048**2 + 3 * 4 * (128 * 128) ** 2


def test_the_width_below_counts_where_it_is_larger() -> None:
    steep = dataclasses.replace(F16, channel_multipliers=(1, 4), attention_resolutions=(), resolution=32)
    pixels = (16 * 2) * (8 * 2)
    assert decode_bytes(steep, 8, 16) == 4 * (9 * pixels * 512 + 3 * (8 * 16) ** 2)


def test_attention_above_the_latent_grid_counts_its_own_positions() -> None:
    higher = dataclasses.replace(F16, attention_resolutions=(32, 16))
    assert decode_bytes(higher, 32, 16) - decode_bytes(F16, 32, 16) == 12 * ((64 * 32) ** 2 - (32 * 16) ** 2)
    without = dataclasses.replace(F16, use_attention=False)
    assert decode_bytes(without, 32, 16) == decode_bytes(F16, 32, 16) - 12 * (32 * 16) ** 2


def test_maps_that_can_not_be_encoded() -> None:
    check_encode_memory(F16, 1024, 1024, what="depth", available=6 * GIB)
    with pytest.raises(ShapeError, match=r"depth of 1024x1024 = 1048576 pixels needs 5.0 GB of memory, 2.1 GB are"):
        check_encode_memory(F16, 1024, 1024, what="depth", available=2 * GIB)
    with pytest.raises(ShapeError, match="at most 67108864 pixels are encoded"):
        check_encode_memory(F16, 20000, 20000, what="depth", available=1 << 60)


def test_encoding_adds_the_maps_themselves() -> None:
    labels = dataclasses.replace(F16, in_channels=182)
    assert encode_bytes(labels, 16, 16) == decode_bytes(F16, 16, 16) + 4 * 182 * 256 * 256


def test_tiles_bound_the_decoder() -> None:
    small, large = (tiled_bytes(F16, side, side, frame=32) for side in (128, 512))
    assert small < decode_bytes(F16, 32, 32) * 1.2
    # 16 times the pixels cost their own bytes and wider bands
    assert large - small < 16 * 3 * 2048**2 + 16 * 512 * 3 * 8192
    assert tiled_bytes(F16, 8, 8, frame=32) < decode_bytes(F16, 9, 9)


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (-1, 4)])
def test_no_grid_has_no_bytes(size: tuple[int, int]) -> None:
    with pytest.raises(ShapeError, match="at least 1x1"):
        decode_bytes(F16, *size)


# --- refusing ---------------------------------------------------------------------------------------------------------


def test_a_picture_that_fits_is_let_through() -> None:
    check_picture_memory(F16, 256, 256, tiled=False, available=GIB)
    with pytest.raises(ShapeError, match="256x256 pixels needs 303 MB of memory, 100 MB are available"):
        check_picture_memory(F16, 256, 256, tiled=False, available=100 * 10**6)


def test_the_limit_is_exact() -> None:
    need = decode_bytes(F16, 32, 40) + 512 * 640 * 3
    check_picture_memory(F16, 640, 512, tiled=False, available=need)
    check_picture_memory(F16, 625, 497, tiled=False, available=need)  # counts up to whole codes
    with pytest.raises(ShapeError):
        check_picture_memory(F16, 640, 512, tiled=False, available=need - 1)
    with pytest.raises(ShapeError):
        check_picture_memory(F16, 641, 512, tiled=False, available=need)


def test_the_refusal_says_what_helps() -> None:
    with pytest.raises(
        ShapeError, match=r"--decode-tiles, 2\.\d GB.* or choose a smaller size \((\d+)x\1 fits\)"
    ) as no:
        check_picture_memory(F16, 2048, 2048, tiled=False, available=6 * GIB)
    side = int(str(no.value).split("size (")[1].split("x")[0])
    check_picture_memory(F16, side, side, tiled=False, available=6 * GIB)
    with pytest.raises(ShapeError):
        check_picture_memory(F16, side + F16.factor, side + F16.factor, tiled=False, available=6 * GIB)
    check_picture_memory(F16, 2048, 2048, tiled=True, available=6 * GIB)


def test_tiles_are_not_advised_where_they_do_not_fit_or_are_used_already() -> None:
    with pytest.raises(ShapeError, match="fits") as no:
        check_picture_memory(F16, 2048, 2048, tiled=False, available=GIB // 2)
    assert "--decode-tiles" not in str(no.value)
    with pytest.raises(ShapeError, match="in tiles needs") as no:
        check_picture_memory(F16, 2048, 2048, tiled=True, available=GIB // 2)
    assert "--decode-tiles" not in str(no.value)
    check_picture_memory(F16, 2048, 2048, tiled=True, frame=8, available=GIB // 2)
    with pytest.raises(ShapeError, match="free some memory"):
        check_picture_memory(F16, 256, 256, tiled=False, available=1000)


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("available", [None, 1 << 60])
def test_20000_pixels_a_side_are_refused_with_their_memory(tiled: bool, available: int | None) -> None:
    with pytest.raises(ShapeError, match=r"20000x20000 .* needs? (31\.1 TB|4\.\d GB) .*smaller size"):
        check_picture_memory(F16, 20_000, 20_000, tiled=tiled, available=available)


def test_no_size_is_no_picture() -> None:
    with pytest.raises(ShapeError, match="at least 1x1"):
        check_picture_memory(F16, 0, 256, tiled=False)


def test_where_the_system_says_nothing_only_the_pixel_limit_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    check_picture_memory(F16, 8192, 8192, tiled=False)
    with pytest.raises(ShapeError, match="at most"):
        check_picture_memory(F16, 8208, 8192, tiled=False)


# --- what there is ----------------------------------------------------------------------------------------------------


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system with 8 GiB available and no cgroup."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:   {8 << 20} kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "fs")
    return tmp_path


def limit(folder: Path, names: tuple[str, str, str], bound: object, used: int, reclaimable: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{bound}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 17\n{names[2]} {reclaimable}\n")


def test_the_system_alone(system: Path) -> None:
    assert available_bytes() == 8 * GIB


def test_a_cgroup_of_version_2(system: Path) -> None:
    (system / "cgroup").write_text("0::/a/b\n")
    limit(system / "fs" / "a" / "b", memory._V2, "max", GIB, 0)
    assert available_bytes() == 8 * GIB
    limit(system / "fs" / "a", memory._V2, 4 * GIB, 3 * GIB, GIB // 2)
    assert available_bytes() == 3 * GIB // 2, "the one around it counts, files that can be dropped are free"
    limit(system / "fs" / "a" / "b", memory._V2, GIB, GIB // 4, 0)
    assert available_bytes() == 3 * GIB // 4


def test_a_cgroup_of_version_1(system: Path) -> None:
    (system / "cgroup").write_text("5:devices:/x\n4:cpu,memory:/x/y\n0::/\n")
    limit(system / "fs" / "memory", memory._V1, 9223372036854771712, GIB, 0)
    assert available_bytes() == 8 * GIB
    limit(system / "fs" / "memory" / "x" / "y", memory._V1, 2 * GIB, GIB, 0)
    assert available_bytes() == GIB


def test_a_container_that_sees_its_limit_at_the_root(system: Path) -> None:
    (system / "cgroup").write_text("0::/folders/of/the/host\n")
    limit(system / "fs", memory._V2, 3 * GIB, GIB, 0)
    assert available_bytes() == 2 * GIB


def test_a_full_cgroup_has_nothing_left(system: Path) -> None:
    (system / "cgroup").write_text("0::/\n")
    limit(system / "fs", memory._V2, GIB, 2 * GIB, 0)
    assert available_bytes() == 0


@pytest.mark.parametrize("junk", ["", "junk", "0::", "4:memory"])
def test_junk_is_no_limit(system: Path, junk: str) -> None:
    (system / "cgroup").write_text(junk)
    limit(system / "fs", memory._V2, "junk", 0, 0)
    assert available_bytes() == 8 * GIB


def test_without_meminfo_the_physical_memory_counts(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (system / "meminfo").unlink()
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert available_bytes() == 4096000
    monkeypatch.delattr(memory.os, "sysconf")
    assert available_bytes() is None


@pytest.mark.parametrize(
    ("count", "wanted"), [(1, "1 MB"), (80 * 10**6, "80 MB"), (1_250_000_000, "1.2 GB"), (31 * 10**12, "31.0 TB")]
)
def test_bytes_for_people(count: int, wanted: str) -> None:
    assert say_bytes(count) == wanted
