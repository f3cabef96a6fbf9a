"""``trt-vqgan serve``: pictures over HTTP."""

from __future__ import annotations

import contextlib
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trt_vqgan.cli import options
from trt_vqgan.cli.commands import debug_option
from trt_vqgan.cli.demo import chosen_bundle, demo_option
from trt_vqgan.extras import import_module

if TYPE_CHECKING:
    from trt_vqgan.runtime.server.service import Service

BACKLOG = 2048
OPEN_FILES = 1 << 16
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command(short_help="Serve pictures over HTTP.")
@options.optional_bundle_argument
@demo_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 for any free one.")
@click.option(
    "--rows", type=click.IntRange(2, 1024), default=16, show_default=True, help="Pictures in the running batch."
)
@click.option(
    "--queue", type=click.IntRange(min=1), default=256, show_default=True, help="Pictures that may wait for a place."
)
@click.option(
    "--max-pictures", type=click.IntRange(min=1), default=64, show_default=True, help="Pictures of one request."
)
@click.option(
    "--max-megapixels", type=click.FloatRange(min=0.01), default=16.0, show_default=True,
    help="Of a picture that is sent, and of all pictures of a request.",
)  # fmt: skip
@click.option(
    "--max-body", type=click.FloatRange(min=0.01), default=32.0, show_default=True, metavar="MB",
    help="Size of a request's body.",
)  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=120.0, show_default=True, metavar="SECONDS",
    help="In which pictures are made, unless a request names its own.",
)  # fmt: skip
@click.option(
    "--drain", type=click.FloatRange(min=0, min_open=True), default=30.0, show_default=True, metavar="SECONDS",
    help="That pictures under way have when the server is told to end (SIGTERM, Ctrl-C).",
)  # fmt: skip
@click.option(
    "--api-key-file", type=options.PATH, metavar="FILE",
    help="File with the key that requests must carry (Authorization: Bearer KEY).  [default: no key]",
)  # fmt: skip
@click.option("--access-log", is_flag=True, help="Print a line a request.")
@options.backend_option
@options.device_option
@click.option(
    "--threads", type=click.IntRange(min=1),
    help="Threads to compute with.  [default: one less than the processors, which is left to decoding and HTTP]",
)  # fmt: skip
@debug_option
def serve(
    bundle: Path | None,
    demo: str | None,
    host: str,
    port: int,
    access_log: bool,
    backend: str,
    device: str | None,
    threads: int | None,
    **limits: Any,
) -> None:
    """Serve pictures of BUNDLE (or of the demo that ships with the package) over HTTP.

    A page for people at /, the API at /v1, its description at /docs, measurements at /metrics. Requests share one
    running batch: their pictures are those that they have alone. Needs the extra: pip install 'trt-vqgan[serve]'.
    """
    create_app = import_module("trt_vqgan.runtime.server.app").create_app
    from trt_vqgan.runtime.server.service import Service
    from trt_vqgan.runtime.server.settings import ServerSettings

    settings = ServerSettings(
        rows=limits["rows"],
        queue_limit=limits["queue"],
        max_pictures=limits["max_pictures"],
        max_pixels=int(limits["max_megapixels"] * (1 << 20)),
        max_body_bytes=int(limits["max_body"] * (1 << 20)),
        deadline_s=limits["timeout"],
        drain_s=limits["drain"],
        api_key=None if limits["api_key_file"] is None else _key(limits["api_key_file"]),
    )
    if threads is None:
        from trt_vqgan.runtime.threads import available_threads

        threads = max(1, available_threads() - 1)
    with contextlib.closing(_listening(host, port)) as listener:
        service = Service.open(
            chosen_bundle(bundle, demo), backend=backend, device=device, threads=threads, settings=settings
        )
        try:
            _run(create_app(service), service, listener, access_log=access_log)
        finally:
            service.close()
    counts = service.counts()
    click.echo(f"ended: {counts.finished} of {counts.accepted} pictures finished")


def _run(app: Any, service: Service, listener: socket.socket, *, access_log: bool) -> None:
    import uvicorn

    from trt_vqgan.runtime.server.connections import PatientProtocol

    settings = service.settings
    _allow_open_files()
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn drains on a signal and then raises it again, for which nothing is left to do
        signal.signal(number, lambda *_: None)
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        log_level="info" if access_log else "warning",
        access_log=access_log,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        backlog=BACKLOG,
    )
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    if host not in LOOPBACK and settings.api_key is None:
        click.echo("warning: everyone who reaches this address may use it; --api-key-file asks for a key", err=True)
    click.echo(f"serving {options.say_backend(service.pipeline)} on http://{shown}:{port}")
    uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), f"{host}:{port}") from None


def _key(path: Path) -> str:
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--api-key-file {path}: can't be read ({error})") from None
    if not key:
        raise click.UsageError(f"--api-key-file {path}: is empty, wanted a key")
    return key


def _allow_open_files() -> None:
    """Let this process have a file for each of a thousand connections and more."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
