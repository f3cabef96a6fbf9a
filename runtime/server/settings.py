"""What a server allows, and how long it waits."""

from __future__ import annotations

import dataclasses

from trt_vqgan.errors import ShapeError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Limits of a server.

    Attributes
    ----------
    rows : of the running batch: pictures at once, or half as many with guidance.
    queue_limit : pictures that may wait for a row.
    blocking_limit : encodings, decodings and readings of requests that may wait for a thread.
    alone_limit : requests outside the batch that may wait for their turn.
    max_pictures : of one request.
    max_pixels : of one picture that is sent, and of all pictures of a request together.
    max_body_bytes : of one request.
    deadline_s, max_deadline_s : seconds in which pictures are made unless a request says otherwise, and at most.
    receive_s : seconds in which a request's body must come.
    drain_s : seconds that pictures under way have when the server shuts down.
    api_key : that requests must carry; None for none.
    """

    rows: int = 16
    queue_limit: int = 256
    blocking_limit: int = 64
    alone_limit: int = 8
    max_pictures: int = 64
    max_pixels: int = 1 << 24
    max_body_bytes: int = 32 << 20
    deadline_s: float = 120.0
    max_deadline_s: float = 3600.0
    receive_s: float = 60.0
    drain_s: float = 30.0
    api_key: str | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "api_key" and not value > 0:
                raise ShapeError(f"server setting {field.name}: found {value}, wanted more than 0")
        if self.rows < 2:
            raise ShapeError(f"server setting rows: found {self.rows}, wanted at least 2")
        if self.api_key == "":
            raise ShapeError("server setting api_key: found an empty key, wanted some text, or none at all")
