"""The public calls: defaults, streaming, cancelling, threads at once, errors, and life without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import trt_vqgan
from tests.export.checkpoint_factory import make_checkpoint
from trt_vqgan.errors import BackendUnavailableError, BundleError, Cancelled, ConditionError, ShapeError
from trt_vqgan.runtime import sessions
from trt_vqgan.runtime.pipeline import Pipeline, Progress


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("class")
    run = make_checkpoint(folder / "run", kind="class")
    return trt_vqgan.export_checkpoint(run, folder / "bundle", class_names=[f"kind-{i}" for i in range(5)])


@pytest.fixture(scope="module")
def pipe(bundle: Path) -> Iterator[Pipeline]:
    with trt_vqgan.load(bundle, threads=2) as opened:
        yield opened


def export(folder: Path, kind: str, **options: object) -> Pipeline:
    run = make_checkpoint(folder / "run", kind=kind, **options)  # type: ignore[arg-type]
    return trt_vqgan.load(trt_vqgan.export_checkpoint(run, folder / "bundle"), threads=1)


def test_a_class_model_takes_its_classes_in_turn(pipe: Pipeline) -> None:
    classes = pipe.spec.condition.num_classes
    result = pipe.generate(n=classes + 2)
    assert result.classes.tolist() == [*range(classes), 0, 1]
    assert result.images.shape == (classes + 2, 32, 32, 3)
    assert result.images.dtype == np.uint8
    assert result.codes.dtype == np.int64


def test_one_picture_a_condition_by_default(pipe: Pipeline) -> None:
    assert pipe.generate(class_id=[3, "kind-1", "2"]).classes.tolist() == [3, 1, 2]
    assert len(pipe.generate().codes) == 1
    assert pipe.generate(n=5, class_id=[3, 1]).classes.tolist() == [3, 1, 3, 1, 3]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 64])
def test_the_batch_size_changes_no_bit(pipe: Pipeline, batch_size: int) -> None:
    wanted = pipe.generate(n=7, seed=9)
    found = pipe.generate(n=7, seed=9, batch_size=batch_size)
    np.testing.assert_array_equal(found.codes, wanted.codes)
    np.testing.assert_array_equal(found.images, wanted.images)


def test_a_picture_is_its_number(pipe: Pipeline) -> None:
    all_of_them = pipe.generate(n=6, class_id=4, seed=2)
    later = pipe.generate(n=2, class_id=4, seed=2, first_picture=3)
    np.testing.assert_array_equal(later.codes, all_of_them.codes[3:5])
    assert len({codes.tobytes() for codes in all_of_them.codes}) == 6


def test_streaming_yields_pictures_as_they_are_made(pipe: Pipeline) -> None:
    wanted = pipe.generate(n=5, seed=1)
    done: list[int] = []
    stream = pipe.generate_stream(
        n=5, seed=1, batch_size=2, first_picture=0, on_progress=lambda p: done.append(p.done_codes)
    )
    assert not done, "nothing is computed before the first item is asked for"
    number, codes, image = next(stream)
    assert number == 0
    assert max(done) <= 2 * pipe.spec.num_codes
    rest = list(stream)
    assert [number for number, _, _ in rest] == [1, 2, 3, 4]
    np.testing.assert_array_equal(np.stack([codes, *(c for _, c, _ in rest)]), wanted.codes)
    np.testing.assert_array_equal(np.stack([image, *(i for _, _, i in rest)]), wanted.images)


def test_progress_grows_to_the_total(pipe: Pipeline) -> None:
    seen: list[Progress] = []
    pipe.generate(n=3, batch_size=2, on_progress=seen.append)
    counts = [progress.done_codes for progress in seen]
    assert counts == sorted(counts)
    assert counts[-1] == seen[-1].total_codes == 3 * pipe.spec.num_codes
    assert [p.pictures_done for p in seen][-1] == 3


def test_returning_false_cancels(pipe: Pipeline) -> None:
    with pytest.raises(Cancelled, match="after 0 of 2 pictures"):
        pipe.generate(n=2, on_progress=lambda progress: progress.done_codes < 10)
    assert len(pipe.generate(n=1).codes) == 1, "a cancelled call leaves the pipeline usable"


def test_many_threads_at_once(pipe: Pipeline) -> None:
    wanted = {seed: pipe.generate(n=2, seed=seed) for seed in range(4)}
    found: dict[int, object] = {}
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        start.wait()
        found[seed] = (pipe.generate(n=2, seed=seed), pipe.encode(wanted[seed].images), pipe.decode(wanted[seed].codes))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        result, codes, images = found[seed]  # type: ignore[misc]
        np.testing.assert_array_equal(result.codes, wanted[seed].codes)
        np.testing.assert_array_equal(images, wanted[seed].images)
        np.testing.assert_array_equal(codes, pipe.encode(wanted[seed].images))


def test_sampling_defaults_come_from_the_bundle(pipe: Pipeline) -> None:
    assert pipe.generate().sampling.top_p == pipe.manifest.sampling.top_p == 0.92
    assert pipe.generate(top_p=0.5, top_k=3, temperature=2.0).sampling.top_k == 3


def test_score_is_the_likelihood_of_the_logits(pipe: Pipeline) -> None:
    result = pipe.generate(n=2, class_id=1)
    logits = pipe.logits([[1]], result.codes).astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    chosen = np.take_along_axis(probabilities, result.codes.reshape(2, -1, 1), axis=2)[:, :, 0]
    np.testing.assert_allclose(pipe.score(result.codes, [[1]]), -np.log(chosen), rtol=1e-4)
    from_pictures = pipe.score(result.images, [[1]])
    np.testing.assert_array_equal(from_pictures, pipe.score(pipe.encode(result.images), [[1]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_id": 5}, "class 5 is out of range, wanted 0 to 4"),
        ({"class_id": -1}, "class -1 is out of range"),
        ({"class_id": "lake"}, "'lake' is unknown, wanted one of kind-0"),
        ({"class_id": []}, "empty"),
        ({"class_id": 1.5}, "wanted an id or a name"),
        ({"depth": np.zeros((32, 32))}, "takes no depth; it takes class_id"),
        ({"class_id": 1, "condition_codes": [[1]]}, "leave the other one out"),
        ({"condition_codes": [[99]]}, "wanted 0 to"),
    ],
)
def test_wrong_conditions(pipe: Pipeline, options: dict, message: str) -> None:
    with pytest.raises(ConditionError, match=message):
        pipe.generate(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n: found 0"),
        ({"seed": -1}, "seed"),
        ({"seed": 1 << 64}, "seed"),
        ({"batch_size": 0}, "batch_size"),
        ({"first_picture": -1}, "first_picture"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 1.5}, "top_p"),
        ({"condition_codes": [[1, 2]]}, "found 2 tokens a picture, wanted 1"),
        ({"condition_codes": [[1.0]]}, "wanted integers"),
    ],
)
def test_wrong_settings(pipe: Pipeline, options: dict, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        pipe.generate(**options)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 30, 32, 3), np.uint8),
        np.zeros((1, 32, 32, 4), np.uint8),
        np.zeros((32, 32), np.uint8),
        np.zeros((1, 3, 32, 33), np.float32),
        np.zeros((1, 32, 32, 3), np.int32),
        np.zeros((1, 0, 32, 3), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_wrong_pictures(pipe: Pipeline, images: np.ndarray) -> None:
    with pytest.raises(ShapeError, match="found"):
        pipe.encode(images)


def test_wrong_codes(pipe: Pipeline) -> None:
    size = pipe.spec.autoencoder.codebook_size
    for codes in (np.full((1, 8, 8), size), np.full((1, 8, 8), -1), np.zeros((8,), int), np.zeros((1, 8, 8))):
        with pytest.raises(ShapeError, match="found"):
            pipe.decode(codes)
    with pytest.raises(ShapeError, match="codes"):
        pipe.logits([[1]], np.zeros((1, 7, 8), int))
    with pytest.raises(ShapeError, match="3 conditions for 2 pictures"):
        pipe.logits([[1], [2], [3]], np.zeros((2, 8, 8), int))


def test_a_closed_pipeline_says_so(bundle: Path) -> None:
    with trt_vqgan.load(bundle) as pipe:
        stream = pipe.generate_stream(n=4, batch_size=1)
        next(stream)
    for call in (pipe.generate, lambda: pipe.encode(np.zeros((1, 32, 32, 3), np.uint8)), lambda: list(stream)):
        with pytest.raises(BundleError, match="closed"):
            call()


@pytest.mark.parametrize("kind", ["depth", "segmentation"])
def test_a_model_that_needs_a_map_says_which(tmp_path: Path, kind: str) -> None:
    with export(tmp_path, kind) as pipe:
        with pytest.raises(ConditionError, match=f"give {kind}"):
            pipe.generate()
        result = pipe.generate(**{kind: np.zeros((32, 32), dtype=int)}, n=2, greedy=True)
        assert result.images.shape == (2, 32, 32, 3)
        np.testing.assert_array_equal(result.codes[0], result.codes[1])


@pytest.mark.parametrize("kind", ["unconditional", "coord"])
def test_models_that_need_nothing(tmp_path: Path, kind: str) -> None:
    with export(tmp_path, kind) as pipe:
        assert len(pipe.generate(n=2).images) == 2


@pytest.mark.parametrize("kind", ["vq", "gumbel"])
def test_a_vqgan_alone(tmp_path: Path, kind: str) -> None:
    with export(tmp_path, kind) as pipe:
        codes = pipe.encode(np.zeros((1, 32, 64, 3), np.uint8))
        assert pipe.decode(codes).shape == (1, 32, 64, 3)
        with pytest.raises(ConditionError, match="without a transformer"):
            pipe.generate()


@pytest.mark.parametrize("permuter", ["Subsample", "ZCurve", "Random"])
def test_codes_go_in_and_out_in_raster_order(tmp_path: Path, permuter: str) -> None:
    """Keeping the codes that a model made, through its own logits, must find them the likeliest again."""
    with export(tmp_path, "class", permuter=permuter) as pipe:
        codes = pipe.generate(class_id=0, greedy=True).codes
        order = np.array(pipe.spec.permutation)
        size = pipe.spec.autoencoder.codebook_size  # the vocabulary is larger; such tokens are never drawn
        likeliest = pipe.logits([[0]], codes)[:, :, :size].argmax(axis=2)
        np.testing.assert_array_equal(likeliest[0], codes.reshape(-1)[order])


@pytest.mark.parametrize("name", ["decoder.onnx", "transformer.onnx.data", "codebook.npy"])
def test_a_changed_file_is_noticed(bundle: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} was changed"):
        trt_vqgan.load(copy)


def test_both_onnxruntimes_are_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions.metadata, "version", lambda name: "1.99")
    with pytest.raises(BackendUnavailableError, match="pip uninstall -y onnxruntime onnxruntime-gpu"):
        trt_vqgan.load(bundle)


def test_an_unknown_backend(bundle: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="wanted one of auto, native, onnxruntime"):
        trt_vqgan.load(bundle, backend="abacus")


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "yaml", "safetensors", "onnxscript"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Block())
import json, numpy as np, trt_vqgan
with trt_vqgan.load(sys.argv[1]) as pipe:
    result = pipe.generate(n=2, seed=3)
    codes = pipe.encode(result.images)
    nll = pipe.score(codes, [[0]])
    print(json.dumps([result.codes.tolist(), bool(np.isfinite(nll).all()), "torch" in sys.modules]))
try:
    trt_vqgan.export_checkpoint
except ImportError as error:
    print(error)
"""


def test_the_runtime_needs_no_torch_and_no_onnx(bundle: Path, pipe: Pipeline) -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED, str(bundle)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    codes, finite, torch_loaded = json.loads(lines[0])
    assert codes == pipe.generate(n=2, seed=3).codes.tolist()
    assert finite
    assert not torch_loaded
    assert "pip install 'trt-vqgan[export]'" in lines[1]
