"""Sizes of the published models: against what is known of them, and the formulas against bundles that exist."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from trt_vqgan.benchmarks.published_models import (
    ALSO,
    REPORT,
    bundle_bytes,
    codes_per_second,
    main,
    page,
    parameters,
    published_models,
)
from trt_vqgan.benchmarks.random_models import (
    RandomWeights,
    write_autoencoder,
    write_random_manifest,
    write_transformer,
)
from trt_vqgan.benchmarks.report import read_report
from trt_vqgan.benchmarks.shapes import PUBLISHED_F16 as F16
from trt_vqgan.benchmarks.shapes import model_of_shape
from trt_vqgan.errors import SpecError
from trt_vqgan.manifest import read_manifest
from trt_vqgan.runtime.demos import DEMOS, demo_bundle

MODELS = published_models()


def test_parameters_are_those_that_are_known() -> None:
    found = {model.name: round(parameters(model.spec) / 1e6) for model in MODELS if model.spec.transformer is not None}
    assert (found["S-FLCKR"], found["COCO-Stuff"], found["FFHQ"]) == (305, 651, 802)
    assert found["ImageNet (cIN)"] == 1411
    assert MODELS[9].spec.autoencoder == F16


@pytest.mark.parametrize("demo", DEMOS)
def test_bundles_are_as_large_as_computed(demo: str) -> None:
    manifest = read_manifest(demo_bundle(demo))
    assert bundle_bytes(manifest.model, "int8") == pytest.approx(manifest.size_bytes, rel=0.03)


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_random_bundles_are_as_large_as_computed(tmp_path: Path, precision: str) -> None:
    spec = model_of_shape(4, width=512)
    vqgan = dataclasses.replace(
        spec.autoencoder, base_channels=32, channel_multipliers=(1, 1, 1, 1, 2), z_channels=32, code_dim=32
    )
    spec = dataclasses.replace(spec, autoencoder=vqgan)
    weights = RandomWeights(spec)
    write_transformer(tmp_path, spec, weights, precision=precision)
    write_autoencoder(tmp_path, spec, weights, precision=precision)
    write_random_manifest(tmp_path, spec, precision=precision)
    graphs = 300_000  # the graphs themselves, which are nothing beside a published model's weights
    assert bundle_bytes(spec, precision) == pytest.approx(read_manifest(tmp_path).size_bytes, rel=0.03, abs=graphs)


def test_speed_is_that_of_the_row_at_its_own_shape() -> None:
    report = read_report(REPORT)
    row = next(
        row for row in report.rows if (row.what, row.runner, row.precision, row.batch) == ("step", "native", "int8", 1)
    )
    layers, width = (int(part) for part in row.model.split("x"))
    spec = model_of_shape(layers, width=width).transformer
    assert spec is not None
    assert codes_per_second(spec, row) == pytest.approx(row.rates["codes/s"], rel=0.05)


def test_the_page(tmp_path: Path) -> None:
    report = read_report(REPORT)
    text = page(report, source="cpu.json", also=report)
    assert "None of these checkpoints was ever run" in text
    for model in MODELS:
        assert f"| {model.name} |" in text
        assert f"trt-vqgan export {model.given} " in text
    assert f"by `{report.command}` (load average" in text
    assert main(["-o", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text() == page(report, source="cpu.json", also=read_report(ALSO))
    empty = dataclasses.replace(report, rows=[])
    with pytest.raises(SpecError, match=r"has no rows of decode, and of step"):
        page(empty, source="cpu.json")
