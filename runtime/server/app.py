"""The HTTP application of a service."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn  # noqa: F401  what serves the application; missing, it is better said now
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import trt_vqgan
from trt_vqgan.errors import Cancelled, ShapeError, TooLargeError, TrtVqganError
from trt_vqgan.runtime import requests
from trt_vqgan.runtime.fitting import fit_picture
from trt_vqgan.runtime.image_files import InMemoryFile
from trt_vqgan.runtime.images import encode_png, read_image
from trt_vqgan.runtime.server.answers import data_url, picture_json, png_of, preview_json, request_json, webp_of
from trt_vqgan.runtime.server.bodies import Body, DecodeBody, EncodeBody, GenerateBody
from trt_vqgan.runtime.server.events import Done, Failed, PictureMade, PreviewMade
from trt_vqgan.runtime.server.gates import Gates
from trt_vqgan.runtime.server.job import Job
from trt_vqgan.runtime.server.metrics import ServerMetrics
from trt_vqgan.runtime.server.models import model_json
from trt_vqgan.runtime.server.problems import CLIENT_GONE, Problem, problem_of
from trt_vqgan.runtime.server.service import Service
from trt_vqgan.runtime.server.streams import ClientGone, EventQueue, EventStream, unless_gone
from trt_vqgan.runtime.server.uploads import Files, generate_arguments, read_body

PAGE = Path(__file__).resolve().parent / "page"
PAGE_FILES = {
    "page.css": "text/css", "page.js": "text/javascript", "drawing.js": "text/javascript", "docs.js": "text/javascript",
}  # fmt: skip

log = logging.getLogger("trt_vqgan.server")


def create_app(service: Service) -> FastAPI:
    """Return the application of a service, which is closed when the application ends.

    It needs nothing else: any ASGI server runs it, and others mount it.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="trt-vqgan", version=trt_vqgan.__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        description="Pictures from a taming-transformers bundle, in one running batch. See docs/serving.md.",
    )  # fmt: skip
    app.state.service = service
    settings = service.settings
    app.add_middleware(
        Gates, max_body_bytes=settings.max_body_bytes, receive_s=settings.receive_s, api_key=settings.api_key
    )
    metrics = ServerMetrics(service)
    handlers = _Handlers(service)

    def measured(
        endpoint: str, handle: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def handler(request: Request) -> Response:
            start = time.monotonic()
            try:
                response = await handle(request)
            except (ClientGone, ClientDisconnect, Cancelled):
                response = Response(status_code=CLIENT_GONE)
            except Exception as error:
                problem = problem_of(error)
                if problem.status == 500:
                    log.exception("%s failed", endpoint)
                response = _problem_response(problem)
            metrics.answered(endpoint, response.status_code, time.monotonic() - start)
            return response

        return handler

    for path, handle, body, summary in (
        ("/v1/generate", handlers.generate, GenerateBody, "Make pictures"),
        ("/v1/encode", handlers.encode, EncodeBody, "A picture to codes"),
        ("/v1/decode", handlers.decode, DecodeBody, "Codes to pictures"),
    ):
        app.post(
            path,
            summary=summary,
            operation_id=path.rpartition("/")[2],
            openapi_extra=_documented(body),
            response_model=None,
        )(measured(path, handle))

    @app.get("/v1/models", summary="What is served")
    async def models() -> dict[str, Any]:
        return {"models": [model_json(service)]}

    @app.get("/healthz", summary="Whether the server runs")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="Whether requests are taken", response_model=None)
    async def readyz() -> JSONResponse:
        return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)

    @app.get("/metrics", summary="Measurements, as Prometheus reads them", response_model=None)
    async def measurements() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False, response_model=None)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", media_type="text/html", headers=_PAGE_HEADERS)

    @app.get("/docs", include_in_schema=False, response_model=None)
    async def docs() -> FileResponse:
        return FileResponse(PAGE / "docs.html", media_type="text/html", headers=_PAGE_HEADERS)

    @app.get("/page/{name}", include_in_schema=False, response_model=None)
    async def page_file(name: str) -> FileResponse:
        if name not in PAGE_FILES:
            raise Problem(404, f"/page/{name[:40]}: no such file")
        return FileResponse(PAGE / name, media_type=PAGE_FILES[name], headers=_PAGE_HEADERS)

    @app.exception_handler(Problem)
    @app.exception_handler(TrtVqganError)
    async def known(_: Request, error: Exception) -> Response:
        return _problem_response(problem_of(error))

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path[:100]}: {error.detail}; /docs lists what there is"
        return _problem_response(Problem(error.status_code, message), error.headers)

    return app


_PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def _problem_response(problem: Problem, headers: Any = None) -> Response:
    return JSONResponse(problem.body(), problem.status, headers=problem.headers() | dict(headers or {}))


def _documented(body: type[Body]) -> dict[str, Any]:
    schema = body.model_json_schema(by_alias=True)
    return {"requestBody": {"required": True, "content": {
        "application/json": {"schema": schema}, "multipart/form-data": {"schema": schema},
    }}}  # fmt: skip


class _Handlers:
    """The endpoints that compute."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._pipeline = service.pipeline

    async def generate(self, request: Request) -> Response:
        """Answer with pictures."""
        service = self._service
        body, files = await read_body(request, GenerateBody)
        wanted = await self._blocking(request, functools.partial(self._prepared, body, files))
        kind = body.format or _accepted(request)
        streams = body.stream or kind == "stream"
        if not streams and kind in ("png", "webp") and wanted.count != 1:
            raise ShapeError(f"format {kind}: found {wanted.count} pictures, which is for one; ask for json")
        events = EventQueue()
        job = service.submit(
            wanted,
            events,
            client=request.client.host if request.client is not None else "",
            seconds=body.timeout,
            images=kind != "codes",
            previews=streams and kind != "codes",
        )
        if streams:
            return EventStream(self._events(job, events), on_end=job.cancel)
        try:
            made: list[PictureMade] = await unless_gone(request, _collected(events))
            return await self._answer(job, made, str(kind))
        finally:
            job.cancel()

    def _prepared(self, body: GenerateBody, files: Files) -> requests.Request:
        service = self._service
        arguments = generate_arguments(body, files, self._pipeline.spec, max_pixels=service.settings.max_pixels)
        wanted = service.prepare(arguments)
        every = body.preview_every
        return wanted if every is None else dataclasses.replace(wanted, preview_every=every)

    async def _answer(self, job: Job, made: list[PictureMade], kind: str) -> Response:
        request, pipeline = job.request, self._pipeline
        if kind == "png":
            data = await self._answered(lambda: png_of(pipeline, request, made[0]))
            return Response(data, media_type="image/png")
        if kind == "webp":
            assert made[0].image is not None
            image = made[0].image
            return Response(await self._answered(lambda: webp_of(image)), media_type="image/webp")
        alone = self._service.why_alone(request)

        def response() -> JSONResponse:
            pictures = [picture_json(pipeline, request, one) for one in made]
            return JSONResponse(request_json(pipeline, request, alone=alone) | {"pictures": pictures})

        found: JSONResponse = await self._answered(response)
        return found

    async def _events(self, job: Job, events: EventQueue) -> AsyncIterator[tuple[str, Any]]:
        """Yield the server-sent events of a job."""
        request, pipeline = job.request, self._pipeline
        yield "accepted", request_json(pipeline, request, alone=self._service.why_alone(request))
        codes = request.size[0] * request.size[1] // pipeline.spec.autoencoder.factor**2
        while True:
            event = await events.get()
            if isinstance(event, PreviewMade):
                shown = functools.partial(preview_json, request, event, codes=codes)
                yield "preview", await self._answered(shown)
            elif isinstance(event, PictureMade):
                yield "picture", await self._answered(functools.partial(picture_json, pipeline, request, event))
            elif isinstance(event, Done):
                yield "done", {"n": request.count}
                return
            else:
                yield "error", problem_of(event.error).body()["error"]
                return

    async def encode(self, request: Request) -> Response:
        """Answer with a picture's codes."""
        body, files = await read_body(request, EncodeBody)
        codes = await self._blocking(request, functools.partial(self._encoded, body, files["image"]))
        return JSONResponse(
            {"codes": codes.tolist(), "shape": list(codes.shape), "bundle_id": self._pipeline.bundle_id}
        )

    def _encoded(self, body: EncodeBody, file: InMemoryFile) -> np.ndarray[Any, Any]:
        picture = read_image(file, max_pixels=self._service.settings.max_pixels)
        if body.fit is not None:
            side = self._pipeline.spec.autoencoder.resolution
            picture = fit_picture(picture, side, side, fit=body.fit)
        return self._pipeline.encode(picture)

    async def decode(self, request: Request) -> Response:
        """Answer with the pictures of codes."""
        body, _ = await read_body(request, DecodeBody)
        kind = body.format or _accepted(request)
        if kind in ("png", "webp") and len(body.codes) != 1:
            raise ShapeError(f"format {kind}: found {len(body.codes)} pictures, which is for one; ask for json")
        if kind not in ("json", "png", "webp"):
            raise Problem(406, f"accept: found {kind}, wanted image/png, image/webp or application/json")
        data = await self._blocking(request, functools.partial(self._decoded, body, str(kind)))
        if kind == "json":
            return JSONResponse({"pictures": [{"image": data_url(one, "image/png")} for one in data]})
        return Response(data[0], media_type=f"image/{kind}")

    def _decoded(self, body: DecodeBody, kind: str) -> list[bytes]:
        try:
            codes = np.array(body.codes, dtype=np.int64)
        except (ValueError, OverflowError):
            raise ShapeError("codes: found rows of different lengths, or huge numbers, wanted (B, h, w)") from None
        settings, factor = self._service.settings, self._pipeline.spec.autoencoder.factor
        if codes.size * factor**2 > settings.max_pixels:
            raise TooLargeError(
                f"codes: found {codes.size} of {factor**2} pixels each, at most {settings.max_pixels} pixels are made"
            )
        images = self._pipeline.decode(codes, tiles=body.tiles)
        return [webp_of(image) if kind == "webp" else encode_png(image) for image in images]

    async def _blocking(self, request: Request, function: Callable[[], Any]) -> Any:
        return await unless_gone(request, asyncio.wrap_future(self._service.blocking(function)))

    async def _answered(self, function: Callable[[], Any]) -> Any:
        return await asyncio.wrap_future(self._service.answering(function))


async def _collected(events: EventQueue) -> list[PictureMade]:
    """Return all pictures of a job in order; raise why it failed."""
    made: list[PictureMade] = []
    while True:
        event = await events.get()
        if isinstance(event, PictureMade):
            made.append(event)
        elif isinstance(event, Failed):
            raise event.error
        elif isinstance(event, Done):
            return sorted(made, key=lambda one: one.index)


def _accepted(request: Request) -> str:
    """Return the first form that the Accept header names and that there is, by default "json"."""
    forms = {"application/json": "json", "image/png": "png", "image/webp": "webp", "text/event-stream": "stream"}
    named = (part.partition(";")[0].strip() for part in request.headers.get("accept", "").split(","))
    return next((forms[name] for name in named if name in forms), "json")
