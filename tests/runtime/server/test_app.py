"""The HTTP application: answers, limits, and one clear message for whatever is wrong."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra `serve` isn't installed")

from fastapi.testclient import TestClient

from tests.runtime.server.services import open_service
from trt_vqgan.runtime.demos import demo_bundle as demo_path
from trt_vqgan.runtime.demos import example_maps
from trt_vqgan.runtime.images import encode_png
from trt_vqgan.runtime.server.app import create_app
from trt_vqgan.runtime.server.service import Service

MAX_PIXELS = 8 * 128 * 128
SETTINGS: dict[str, Any] = {"max_pictures": 8, "max_pixels": MAX_PIXELS, "max_body_bytes": 1 << 20}
SMALL = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def service(demo_bundle: Path) -> Service:
    return open_service(demo_bundle, **SETTINGS)


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(create_app(service), raise_server_exceptions=False) as made:
        yield made


@pytest.fixture(scope="module")
def labels_client() -> Iterator[TestClient]:
    path = demo_path("segmentation")
    if not path.is_file():
        pytest.skip(f"the demo {path.name} isn't in this tree")
    with TestClient(create_app(open_service(path, **SETTINGS))) as made:
        yield made


def encoded(image: np.ndarray) -> str:
    return base64.b64encode(encode_png(image)).decode()


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def from_url(url: str) -> np.ndarray:
    head, _, data = url.partition(",")
    assert head.startswith("data:image/")
    assert head.endswith(";base64")
    return decoded(base64.b64decode(data))


def events_of(text: str) -> list[tuple[str, Any]]:
    found = []
    for block in text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((lines["event"], json.loads(lines["data"])))
    return found


def test_json_is_the_pipelines_pictures(client: TestClient, service: Service) -> None:
    answer = client.post("/v1/generate", json={"class": "desert", "n": 2, "seed": 5, "temperature": 0.9})
    assert answer.status_code == 200
    wanted = service.pipeline.generate(n=2, class_id="desert", seed=5, temperature=0.9)
    found = answer.json()
    assert [picture["class_name"] for picture in found["pictures"]] == ["desert", "desert"]
    for i, picture in enumerate(found["pictures"]):
        np.testing.assert_array_equal(picture["codes"], wanted.codes[i])
        np.testing.assert_array_equal(from_url(picture["image"]), wanted.images[i])
    assert found["batched"]
    assert found["sampling"]["temperature"] == 0.9


def test_a_form_is_as_good_as_json(client: TestClient) -> None:
    fields = {"class": "winter", "seed": "7", "greedy": "true"}
    form = client.post("/v1/generate", files={k: (None, v) for k, v in fields.items()})
    plain = client.post("/v1/generate", json={"class": "winter", "seed": 7, "greedy": True})
    assert form.status_code == plain.status_code == 200
    assert form.json()["pictures"] == plain.json()["pictures"]


@pytest.mark.parametrize("kind", ["png", "webp"])
@pytest.mark.parametrize("by", ["accept", "format"])
def test_one_picture_as_a_file(client: TestClient, service: Service, kind: str, by: str) -> None:
    headers = {"Accept": f"text/html, image/{kind};q=0.9"} if by == "accept" else {}
    body = {"class": 1, "seed": 3} | ({"format": kind} if by == "format" else {})
    answer = client.post("/v1/generate", json=body, headers=headers)
    assert answer.headers["content-type"] == f"image/{kind}"
    wanted = service.pipeline.generate(n=1, class_id=1, seed=3).images[0]
    np.testing.assert_array_equal(decoded(answer.content), wanted)
    if kind == "png":
        assert json.loads(Image.open(io.BytesIO(answer.content)).info["trt-vqgan"])["seed"] == 3  # type: ignore[attr-defined]


def test_codes_only(client: TestClient) -> None:
    answer = client.post("/v1/generate", json={"class": 1, "format": "codes"}).json()
    assert "image" not in answer["pictures"][0]
    assert np.shape(answer["pictures"][0]["codes"]) == (16, 16)


def test_previews_as_events(client: TestClient) -> None:
    body = {"class": 1, "n": 2, "stream": True, "preview_every": 32}
    answer = client.post("/v1/generate", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer.text)
    names = [name for name, _ in events]
    assert (names[0], names[-1], names.count("picture")) == ("accepted", "done", 2)
    previews = [data for name, data in events if name == "preview"]
    assert previews
    assert all(from_url(shown["image"]).shape == (128, 128, 3) and shown["total"] == 256 for shown in previews)
    plain = client.post("/v1/generate", json={"class": 1, "n": 2}).json()["pictures"]
    assert sorted((d for n, d in events if n == "picture"), key=lambda d: d["index"]) == plain


def test_an_error_on_the_way_is_the_last_event(client: TestClient) -> None:
    answer = client.post("/v1/generate", json={"class": 1, "n": 8, "stream": True, "timeout": 0.01})
    name, data = events_of(answer.text)[-1]
    assert (name, data["status"]) == ("error", 504)


@pytest.mark.parametrize("how", ["mask", "keep"])
@pytest.mark.parametrize("form", [False, True])
def test_completion(client: TestClient, service: Service, how: str, form: bool) -> None:
    mask = np.zeros((128, 128, 3), np.uint8)
    mask[:64] = 255
    files = {"init": encode_png(SMALL)} | ({"mask": encode_png(mask)} if how == "mask" else {})
    fields = {"class": 2, "seed": 4, "paste": True} | ({"keep": "top"} if how == "keep" else {})
    if form:
        parts: dict[str, Any] = {name: (None, str(value)) for name, value in fields.items()}
        answer = client.post("/v1/generate", files=parts | {n: (f"{n}.png", d, "image/png") for n, d in files.items()})
    else:
        text = {name: "data:image/png;base64," + base64.b64encode(data).decode() for name, data in files.items()}
        answer = client.post("/v1/generate", json=fields | text)
    assert answer.status_code == 200, answer.text
    keep = mask[:, :, 0] > 0
    wanted = service.pipeline.generate(class_id=2, seed=4, paste=True, init=SMALL, keep=keep)
    np.testing.assert_array_equal(from_url(answer.json()["pictures"][0]["image"]), wanted.images[0])


def test_a_label_map(labels_client: TestClient) -> None:
    path = example_maps("segmentation")[0]
    answer = labels_client.post("/v1/generate", files={"segmentation": path.read_bytes(), "seed": (None, "1")})
    assert answer.status_code == 200, answer.text
    pipeline = labels_client.app.state.service.pipeline  # type: ignore[attr-defined]
    wanted = pipeline.generate(segmentation=np.asarray(Image.open(path)), seed=1)
    np.testing.assert_array_equal(answer.json()["pictures"][0]["codes"], wanted.codes[0])
    model = labels_client.get("/v1/models").json()["models"][0]
    assert (model["condition"]["field"], model["condition"]["labels"]) == ("segmentation", 9)


def test_larger_pictures_say_that_they_run_alone(client: TestClient) -> None:
    answer = client.post("/v1/generate", json={"class": 1, "size": "136x128", "window_shift": 8}).json()
    assert from_url(answer["pictures"][0]["image"]).shape == (128, 136, 3)
    assert not answer["batched"]
    assert "larger than the training size" in answer["why_not_batched"]


def test_encode_and_decode(client: TestClient, service: Service) -> None:
    codes = client.post("/v1/encode", json={"image": encoded(SMALL)}).json()["codes"]
    np.testing.assert_array_equal(codes, service.pipeline.encode(SMALL))
    fitted = client.post("/v1/encode", files={"image": encode_png(SMALL[:100, :70]), "fit": (None, "crop")})
    assert np.shape(fitted.json()["codes"]) == (1, 16, 16)
    wanted = service.pipeline.decode(np.array(codes))
    np.testing.assert_array_equal(
        from_url(client.post("/v1/decode", json={"codes": codes}).json()["pictures"][0]["image"]), wanted[0]
    )
    png = client.post("/v1/decode", json={"codes": codes}, headers={"Accept": "image/png"})
    np.testing.assert_array_equal(decoded(png.content), wanted[0])


def test_what_is_served_and_how_it_is(client: TestClient) -> None:
    model = client.get("/v1/models").json()["models"][0]
    assert model["condition"]["classes"][0] == "mountain-lake"
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").status_code == 200
    document = client.get("/openapi.json").json()
    assert {"/v1/generate", "/v1/encode", "/v1/decode", "/v1/models", "/metrics"} <= set(document["paths"])
    client.post("/v1/generate", json={"class": 1})
    text = client.get("/metrics").text
    for wanted in (
        'trt_vqgan_pictures_total{outcome="finished"}',
        "trt_vqgan_codes_total",
        "trt_vqgan_queue_pictures 0.0",
        'trt_vqgan_batch_rows_bucket{le="8.0"}',
        'trt_vqgan_picture_seconds_count{what="decode"}',
        'trt_vqgan_request_seconds_bucket{endpoint="/v1/generate",le="+Inf",status="200"}',
    ):
        assert wanted in text, wanted


BOMB = encode_png(np.zeros((400, 400, 3), np.uint8))


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ({"json": {"class": "ocean"}}, 400, "class 'ocean' is unknown, wanted one of"),
        ({"json": {"class": 1, "n": 9}}, 400, "n: found 9 pictures, at most 8"),
        ({"json": {"class": 1, "n": 0}}, 400, "n: found 0, wanted at least 1"),
        ({"json": {"class": 1, "sead": 3}}, 400, "sead: extra inputs are not permitted"),
        ({"json": {"class": 1, "seed": -1}}, 400, "seed: input should be greater than or equal to 0"),
        ({"json": {"class": 1, "top_p": 2}}, 400, "top_p: found 2.0, wanted a number from 0 to 1"),
        ({"json": {"class": 1, "size": "big"}}, 400, "size: found 'big', wanted WIDTHxHEIGHT"),
        ({"json": {"class": 1, "size": [4096, 4096]}}, 413, "found 1 pictures of 16777216 pixels"),
        ({"json": {"class": 1, "n": 2, "format": "png"}}, 400, "format png: found 2 pictures"),
        ({"json": {"class": 1, "init": "%%%"}}, 400, "init: is neither base64 nor a data: URL"),
        ({"json": {"class": 1, "init": "AAAA"}}, 400, "init: is no image file that Pillow can read"),
        ({"json": {"class": 1, "init": base64.b64encode(BOMB).decode()}}, 413, "init: has 400 x 400 = 160000 pixels"),
        ({"json": {"class": 1, "keep": "top"}}, 400, "mask and keep: wanted init too"),
        ({"json": {"class": 1, "init": encoded(SMALL)}}, 400, "init: wanted keep too"),
        ({"json": {"depth": encoded(SMALL)}}, 400, "coloured picture"),
        ({"json": {"class": 1, "condition_codes": [[1], [1, 2]]}}, 400, "rows of different lengths"),
        ({"json": {"class": 1, "timeout": 0.001}}, 504, "deadline"),
        ({"json": [1]}, 400, "body: input should be"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "body: invalid JSON"),
        ({"content": b'{"seed": NaN}', "headers": {"content-type": "application/json"}}, 400, "seed"),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "content type: found 'text/plain'"),
        ({"content": b"x"}, 415, "content type: found none"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "is no multipart/form-data"),
        ({"content": b"x" * (1 << 20) + b"x"}, 413, "body: found 1048577 bytes or more, at most 1048576"),
        ({"files": {"seed": ("a.png", b"x")}}, 400, "seed: is no file that this takes"),
        ({"files": [("init", ("a", b"x")), ("init", ("a", b"x"))]}, 400, "init: found two files"),
        ({"files": {"layout": (None, "{")}}, 400, "layout: is no JSON"),
    ],
)
def test_one_clear_message(client: TestClient, request_: dict[str, Any], status: int, message: str) -> None:
    answer = client.post("/v1/generate", **request_)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["status"] == status
    assert message in error["message"]
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/decode", {"codes": [[[1, 5000]]]}, 400, "found codes"),
        ("/v1/decode", {"codes": [[[1], [1, 2]]]}, 400, "rows of different lengths"),
        ("/v1/decode", {"codes": [[[1] * 3000]]}, 413, "at most 131072 pixels"),
        ("/v1/decode", {"codes": []}, 400, "codes"),
        ("/v1/encode", {"image": encoded(SMALL[:100])}, 400, "multiples of 8"),
        ("/v1/encode", {}, 400, "image: field required"),
        ("/v1/encode", {"image": ""}, 400, "image"),
        ("/v1/generate", {"init": "", "keep": "top"}, 400, "init"),
    ],
)
def test_wrong_pictures_and_codes(client: TestClient, path: str, body: Any, status: int, message: str) -> None:
    answer = client.post(path, json=body)
    assert (answer.status_code, message in answer.json()["error"]["message"]) == (status, True), answer.text


def test_an_empty_field_of_a_form_is_no_picture(client: TestClient) -> None:
    answer = client.post("/v1/encode", files={"image": (None, "")})
    assert (answer.status_code, "image" in answer.json()["error"]["message"]) == (400, True), answer.text


def test_a_body_without_a_length_is_bounded_too(client: TestClient) -> None:
    answer = client.post(
        "/v1/generate", content=iter([b"x" * 400_000] * 4), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413


def test_unknown_places(client: TestClient) -> None:
    assert client.get("/v2").json()["error"] == {
        "status": 404,
        "message": "GET /v2: Not Found; /docs lists what there is",
    }
    assert client.get("/v1/generate").status_code == 405
    assert client.get("/page/..%2Fapp.py").status_code == 404


def test_pages_of_other_servers_are_refused(client: TestClient) -> None:
    answer = client.post("/v1/generate", json={"class": 1}, headers={"Origin": "https://elsewhere.example"})
    assert (answer.status_code, "pages of this server only" in answer.text) == (403, True)
    assert client.post("/v1/generate", json={"class": 1}, headers={"Origin": "http://testserver"}).status_code == 200


def test_a_key_is_asked_for(demo_bundle: Path) -> None:
    with TestClient(create_app(open_service(demo_bundle, api_key="open sesame"))) as client:
        for headers in ({}, {"X-API-Key": "open"}, {"Authorization": "Basic open sesame"}, {"X-API-Key": "öpen"}):
            answer = client.post("/v1/generate", json={"class": 1}, headers={k: v.encode() for k, v in headers.items()})
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/metrics").status_code == 401
        for headers in ({"X-API-Key": "open sesame"}, {"Authorization": "Bearer open sesame"}):
            assert client.get("/v1/models", headers=headers).status_code == 200
        assert client.get("/").status_code == client.get("/readyz").status_code == 200


def test_more_than_may_wait_is_told_to_come_later(demo_bundle: Path) -> None:
    service = open_service(demo_bundle, queue_limit=3, rows=2)
    held = threading.Event()
    service._blocking.submit(held.wait)
    with TestClient(create_app(service)) as client:
        answer = client.post("/v1/generate", json={"class": 1, "n": 4})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
        held.set()
        service._closing = True
        assert client.get("/readyz").status_code == 503
        assert client.post("/v1/generate", json={"class": 1}).status_code == 503
        service._closing = False


def test_what_nobody_expects_is_an_answer_too(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("/secret/place")

    monkeypatch.setattr(service, "prepare", broken)
    answer = client.post("/v1/generate", json={"class": 1})
    assert answer.json()["error"] == {"status": 500, "message": "the server failed (RuntimeError); its log says why"}
    monkeypatch.setattr(service, "prepare", lambda *_: (_ for _ in ()).throw(MemoryError()))
    assert client.post("/v1/generate", json={"class": 1}).status_code == 503
