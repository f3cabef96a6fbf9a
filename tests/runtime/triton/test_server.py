"""Requests to a real Triton server. `make triton-server` puts one into build/triton-server; else these are skipped.

The server in the package nvidia-pytriton has the Python backend and no other, so the ONNX graphs are not run by it: it
reads their configs, and says that it lacks their backend.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trt_vqgan
from tests.conftest import ROOT
from tests.runtime.jobs.small_jobs import small_bundle
from trt_vqgan.runtime.triton.repository import write_repository

PACKAGE = ROOT / "build" / "triton-server"
SERVER = PACKAGE / "pytriton" / "tritonserver"
PACKAGES = ROOT / "build" / "triton-python"
NUMPY_TYPES = {"UINT8": np.uint8, "INT64": np.int64}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("class"))


class Server:
    def __init__(self, port: int, log: Path) -> None:
        self.address, self.log = f"http://127.0.0.1:{port}/v2", log

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.address}/{path}", timeout=30) as response:
            text = response.read()
        return json.loads(text) if text else None

    def infer(self, model: str, *inputs: tuple[str, str, list[int], list[Any]]) -> dict[str, np.ndarray]:
        tensors = [{"name": n, "datatype": d, "shape": s, "data": v} for n, d, s, v in inputs]
        body = json.dumps({"inputs": tensors}).encode()
        with urllib.request.urlopen(f"{self.address}/models/{model}/infer", data=body, timeout=60) as response:
            outputs = json.loads(response.read())["outputs"]
        return {
            each["name"]: np.array(each["data"], NUMPY_TYPES[each["datatype"]]).reshape(each["shape"])
            for each in outputs
        }


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not SERVER.is_dir():
        pytest.skip("there is no Triton server here; `make triton-server` puts one into build/triton-server")
    stub = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if not (SERVER / "python_backend_stubs" / stub).is_dir():
        pytest.skip(f"this Triton server's Python backend is not for Python {stub}")
    folder = tmp_path_factory.mktemp("triton")
    # the tests' environment is not Triton's Python, so the models are told where trt-vqgan and what it needs are
    (folder / "packages").mkdir()
    (folder / "packages" / "these.pth").write_text(f"{ROOT}\n{PACKAGES}\n")
    write_repository(bundle, folder / "models", threads=1, site_packages=folder / "packages")
    shutil.copytree(SERVER / "backends", folder / "backends")
    program = folder / "backends" / "python" / "triton_python_backend_stub"
    shutil.copy(SERVER / "python_backend_stubs" / stub / program.name, program)
    program.chmod(0o755)
    (SERVER / "bin" / "tritonserver").chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # the stub embeds the interpreter that runs the tests, wherever its library lies
    libraries = [PACKAGE / "nvidia_pytriton.libs", Path(sysconfig.get_config_var("LIBDIR"))]
    command = [
        SERVER / "bin" / "tritonserver", f"--model-repository={folder / 'models'}",
        f"--backend-directory={folder / 'backends'}", "--http-address=127.0.0.1", f"--http-port={port}",
        "--allow-grpc=false", "--allow-metrics=false", "--exit-on-error=false", "--disable-auto-complete-config",
    ]  # fmt: skip
    running = Server(port, folder / "log.txt")
    with running.log.open("w") as log:
        environment = os.environ | {"LD_LIBRARY_PATH": ":".join(map(str, libraries))}
        # the backend imports NumPy before the model does, from the current folder first
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=PACKAGES)
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, running.log.read_text()[-3000:]
            assert time.monotonic() < deadline, running.log.read_text()[-3000:]
            try:
                running.get("models/vqgan_generate/ready")
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:  # as when one of its models has crashed
            process.kill()
            process.wait()


def test_generation(server: Server, bundle: Path) -> None:
    made = server.infer(
        "vqgan_generate", ("n", "INT32", [1], [2]), ("seed", "UINT64", [1], [9]),
        ("class_id", "BYTES", [1], ["sea"]), ("top_k", "INT32", [1], [20]),
    )  # fmt: skip
    with trt_vqgan.load(bundle) as pipeline:
        expected = pipeline.generate(n=2, seed=9, class_id="sea", top_k=20)
    np.testing.assert_array_equal(made["codes"], expected.codes)
    np.testing.assert_array_equal(made["images"], expected.images)


def test_requests_at_once(server: Server, bundle: Path) -> None:
    def one(seed: int) -> np.ndarray:
        return server.infer("vqgan_generate", ("seed", "UINT64", [1], [seed]))["codes"]

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        made = list(pool.map(one, range(6)))
    with trt_vqgan.load(bundle) as pipeline:
        for seed, codes in enumerate(made):
            np.testing.assert_array_equal(codes, pipeline.generate(seed=seed).codes)


def test_codes(server: Server, bundle: Path) -> None:
    spec = trt_vqgan.manifest.read_manifest(bundle).model.autoencoder  # type: ignore[attr-defined]
    codebook = np.load(bundle / "codebook.npy")
    wanted = np.random.default_rng(0).integers(0, spec.codebook_size, (2, 3, 4))
    z = codebook[wanted].transpose(0, 3, 1, 2)
    codes = server.infer("vqgan_codes", ("z", "FP32", list(z.shape), z.reshape(-1).tolist()))["codes"]
    np.testing.assert_array_equal(codebook[codes], codebook[wanted])


def test_a_wrong_request(server: Server) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        server.infer("vqgan_generate", ("class_id", "BYTES", [1], ["nothing"]))
    assert error.value.code == 400
    assert "'nothing'" in json.loads(error.value.read())["error"]


def test_the_other_configs_are_read(server: Server) -> None:
    for name in ("vqgan_encoder", "vqgan_decoder"):
        reason = next(line for line in server.log.read_text().splitlines() if f"| {name}" in line)
        assert "unable to find backend library for backend 'onnxruntime'" in reason
    assert "config.pbtxt" not in server.log.read_text()  # which it names where it can't read one
