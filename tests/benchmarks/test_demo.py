"""The benchmarks on the demo that ships, whose manifest shares its folder with others."""

from __future__ import annotations

from trt_vqgan.benchmarks.autoencoder_rows import open_autoencoder
from trt_vqgan.benchmarks.subjects import BundleSubject
from trt_vqgan.benchmarks.tiles import generated_codes
from trt_vqgan.manifest import bundle_folder, read_manifest
from trt_vqgan.runtime.demos import demo_bundle
from trt_vqgan.runtime.pipeline import load


def test_the_demo_as_a_subject() -> None:
    subject = BundleSubject(demo_bundle())
    assert subject.name == "class"
    with load(subject.bundle("int8")) as pipe:
        assert pipe.spec == subject.spec


def test_tiles_are_measured_on_the_demo() -> None:
    folder, manifest = bundle_folder(demo_bundle()), read_manifest(demo_bundle())
    codes = generated_codes(folder, manifest, class_id=2, rows=16, columns=17)
    assert codes.shape == (1, 16, 17)
    picture = open_autoencoder(manifest.model.autoencoder, folder, threads=2).decode(codes)
    assert picture.shape == (1, 128, 136, 3)
