"""What each worker of a job did."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(kw_only=True)
class WorkerSummary:
    """One worker's part of a job.

    Attributes
    ----------
    name : such as "worker 1".
    place : machine and process that ran it last.
    shards, pictures, codes : finished by it.
    seconds : of computing them.
    deaths : how often its process died and was started again.
    refused : why it takes no part; None where it does.
    """

    name: str
    place: str = ""
    shards: int = 0
    pictures: int = 0
    codes: int = 0
    seconds: float = 0.0
    deaths: int = 0
    refused: str | None = None

    @property
    def codes_per_second(self) -> float:
        """Of the time that it computed."""
        return self.codes / self.seconds if self.seconds else 0.0

    def add(self, *, pictures: int, codes: int, seconds: float) -> None:
        """Count one more shard."""
        self.shards += 1
        self.pictures += pictures
        self.codes += codes
        self.seconds += seconds
