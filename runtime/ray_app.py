"""The server with replicas, on Ray Serve: the HTTP interface of ``trt-vqgan serve``, answered by several processes.

``serve run trt_vqgan.runtime.ray_app:app bundle=BUNDLE min_replicas=2 max_replicas=8`` starts it on a cluster.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import typing
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.types import ASGIApp, Message

from trt_vqgan.errors import OverloadedError, ShapeError
from trt_vqgan.runtime.server.app import create_app
from trt_vqgan.runtime.server.front import Front, ReplicaLostError
from trt_vqgan.runtime.server.gates import Gates
from trt_vqgan.runtime.server.replica import answered
from trt_vqgan.runtime.server.service import Service
from trt_vqgan.runtime.server.settings import ServerSettings

ENGINE = "Engine"
"""Name of the deployment whose replicas have the bundle open."""

FRONT = "Front"
FRONT_REQUESTS = 4096
SILENCE_MARGIN_S = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplicaSettings:
    """How many replicas there are, and when one is taken for dead.

    Attributes
    ----------
    min_replicas, max_replicas : of processes with the bundle open; between them there are as many as the load needs.
    fronts : processes that pass requests on.
    target_requests : that a replica should have under way; more, and another is started. None: the rows of its batch.
    health_period_s, health_timeout_s : a replica is asked so often, and replaced when it doesn't answer in time.
    """

    min_replicas: int = 1
    max_replicas: int = 1
    fronts: int = 1
    target_requests: int | None = None
    health_period_s: float = 5.0
    health_timeout_s: float = 15.0

    def __post_init__(self) -> None:
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise ShapeError(
                f"replicas: found {self.min_replicas} to {self.max_replicas}, wanted at least 1, and no more at least "
                "than at most"
            )
        if self.fronts < 1:
            raise ShapeError(f"fronts: found {self.fronts}, wanted at least 1")


class Engine:
    """A replica: `trt_vqgan.runtime.server.service.Service` and its application."""

    def __init__(self, bundle: str | None, backend: str, threads: int, settings: ServerSettings) -> None:
        self._service = Service.open(bundle, backend=backend, threads=threads, settings=settings)
        self._app: ASGIApp = create_app(self._service)

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncGenerator[Message, None]:
        """Return the messages of a request's answer."""
        async with contextlib.aclosing(answered(self._app, scope, body)) as messages:
            async for message in messages:
                yield message

    def check_health(self) -> None:
        """Raise when the service takes no more requests, so that Ray Serve replaces it."""
        if not self._service.ready:
            raise RuntimeError("the service is closed")

    def __del__(self) -> None:
        """End the service; Ray Serve calls it when a replica is no more needed, after its requests have ended."""
        service = getattr(self, "_service", None)
        if service is not None:
            service.close()


def build(
    bundle: str | os.PathLike[str] | None = None,
    *,
    backend: str = "auto",
    threads: int = 1,
    settings: ServerSettings | None = None,
    replicas: ReplicaSettings | None = None,
) -> serve.Application:
    """Return the application, for `ray.serve.run`.

    Parameters
    ----------
    bundle : its path on every machine; None for the demo that ships with the package.
    backend : as `trt_vqgan.load` takes it; on the CPU.
    threads : processors of each replica.
    settings : limits of each replica.
    """
    limits, how_many = settings or ServerSettings(), replicas or ReplicaSettings()
    path = None if bundle is None else os.path.abspath(bundle)  # noqa: PTH100  no file is read
    deployment: Any = serve.deployment
    engine = deployment(Engine).options(
        name=ENGINE,
        ray_actor_options={"num_cpus": threads},
        # the replica's own queue says no, and what to do then, before Ray Serve's does
        max_ongoing_requests=limits.rows + limits.queue_limit,
        max_queued_requests=limits.queue_limit,
        health_check_period_s=how_many.health_period_s,
        health_check_timeout_s=how_many.health_timeout_s,
        graceful_shutdown_timeout_s=limits.drain_s,
        autoscaling_config={
            "min_replicas": how_many.min_replicas,
            "initial_replicas": how_many.min_replicas,
            "max_replicas": how_many.max_replicas,
            "target_ongoing_requests": how_many.target_requests or limits.rows,
        },
    )

    def front() -> ASGIApp:
        passing_on = Front(_ask, silence_s=limits.max_deadline_s + SILENCE_MARGIN_S)
        return Gates(
            passing_on, max_body_bytes=limits.max_body_bytes, receive_s=limits.receive_s, api_key=limits.api_key
        )

    fronts = deployment(serve.ingress(front)()).options(
        name=FRONT,
        num_replicas=how_many.fronts,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=FRONT_REQUESTS,
        graceful_shutdown_timeout_s=limits.drain_s,
    )
    bound: serve.Application = fronts.bind(engine.bind(path, backend, threads, limits))
    return bound


def app(args: Mapping[str, str]) -> serve.Application:
    """Return the application that the words after ``serve run`` describe: ``name=value``, of `build` and its settings.

    Raises
    ------
    ShapeError : an unknown name, or a value of another kind.
    """
    left = dict(args)
    given: dict[str, Any] = {name: left.pop(name) for name in ("bundle", "backend") if name in left}
    if "threads" in left:
        given["threads"] = _value("threads", left.pop("threads"), int)
    limited = _fields(ServerSettings, left)
    if "api_key_file" in left:
        limited["api_key"] = Path(left.pop("api_key_file")).read_text(encoding="utf-8").strip()
    limits = ServerSettings(**limited)
    replicas = ReplicaSettings(**_fields(ReplicaSettings, left))
    if left:
        known = [field.name for kind in (ReplicaSettings, ServerSettings) for field in dataclasses.fields(kind)]
        names = ", ".join(["bundle", "backend", "threads", "api_key_file", *(n for n in known if n != "api_key")])
        raise ShapeError(f"{next(iter(left))}: no such setting; wanted some of {names}")
    return build(**given, settings=limits, replicas=replicas)


def _fields(kind: type[Any], left: dict[str, str]) -> dict[str, Any]:
    """Take the settings of a class out of ``left``."""
    hints = typing.get_type_hints(kind)
    found: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.name in left and field.name != "api_key":
            to = float if hints[field.name] is float else int
            found[field.name] = _value(field.name, left.pop(field.name), to)
    return found


def _value(name: str, text: str, to: type[Any]) -> Any:
    try:
        return to(text)
    except ValueError:
        raise ShapeError(f"{name}: found {text!r}, wanted a number") from None


async def _ask(scope: dict[str, Any], body: bytes) -> AsyncGenerator[Message, None]:
    """Give a request to a replica, as `Front` wants it."""
    handle: Any = serve.get_deployment_handle(ENGINE).options(stream=True, method_name="answer")
    answer = handle.remote(scope, body)
    is_whole = False
    try:
        async for message in answer:
            yield message
        is_whole = True
    except BackPressureError:
        raise OverloadedError("too many requests wait already; try again later") from None
    except (RayActorError, DeploymentUnavailableError) as error:
        raise ReplicaLostError(str(error)) from None
    except RayTaskError as error:
        if isinstance(error.cause, RayActorError):
            raise ReplicaLostError(str(error)) from None
        raise
    finally:
        if not is_whole:
            answer.cancel()
