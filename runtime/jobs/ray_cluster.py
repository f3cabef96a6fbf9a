"""A Ray cluster to work on: one that runs, or one that is started on this machine for as long as it is needed."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import ray

from trt_vqgan.errors import BackendUnavailableError, JobError
from trt_vqgan.runtime.threads import available_threads

LOCAL = "local"
LOCAL_OBJECT_BYTES = 512 * 2**20
"""Memory of a local cluster for shards on their way to the disk; what is more goes to files."""

LOCAL_ADDRESS = "127.0.0.2"
"""Of a local cluster on Linux: Ray replaces 127.0.0.1 by an address that other machines reach."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """What a cluster has.

    Attributes
    ----------
    cpus : processors of each machine.
    """

    cpus: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crew:
    """How many workers there are, and threads of each."""

    workers: int
    threads: int


@contextlib.contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Connect this process to the cluster at ``address``, or to one of its own for "local", while the block runs.

    Raises
    ------
    BackendUnavailableError : there is no such cluster.
    """
    arguments: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        # Ray reports usage to its makers unless it is told not to; a job is nobody's business.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        arguments |= {
            "address": LOCAL,  # Ray's word for it too: a new one, even where another runs
            "num_cpus": available_threads(),
            "include_dashboard": False,
            "object_store_memory": LOCAL_OBJECT_BYTES,
        }
        if sys.platform == "linux":
            arguments["_node_ip_address"] = LOCAL_ADDRESS
    else:
        arguments["address"] = address
    try:
        ray.init(**arguments)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise BackendUnavailableError(
            f"--ray {address}: no Ray cluster can be reached there ({' '.join(str(error).split())[:200]}); give the "
            "address of its head, HOST:6379, or `local` for this machine"
        ) from None
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        yield Cluster(cpus=tuple(int(node["Resources"].get("CPU", 0)) for node in nodes))
    finally:
        ray.shutdown()


def crew_for(cluster: Cluster, *, workers: int | None, threads: int | None) -> Crew:
    """Return how many workers with how many threads a cluster gets.

    Unless said otherwise there is a worker a machine, with all its processors (the fewest of any machine's): the
    weights are then in its memory once.

    Raises
    ------
    JobError : more was asked for than the cluster has.
    """
    cpus = [count for count in cluster.cpus if count > 0]
    if not cpus:
        raise JobError("the Ray cluster has no processors to work on; add machines, or give another address")
    if threads is None:
        if workers is None:
            threads = min(cpus)
        else:
            threads = max((t for t in range(1, max(cpus) + 1) if _room(cpus, t) >= workers), default=1)
    room = _room(cpus, threads)
    if workers is None:
        workers = room
    if workers < 1 or workers > room:
        raise JobError(
            f"the Ray cluster has {sum(cpus)} processors on {len(cpus)} machine{'s' * (len(cpus) != 1)}, room for "
            f"{room} workers of {threads} threads; found {workers} wanted: give smaller --workers or --threads"
        )
    return Crew(workers=workers, threads=threads)


def _room(cpus: list[int], threads: int) -> int:
    """Return how many workers fit; a machine's processors are not shared by more."""
    return sum(count // threads for count in cpus)
