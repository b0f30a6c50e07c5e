"""What a server takes at most, and how it refuses what is more, wrong or too much at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on what clients may cost: bytes, seconds, counts.

    ``read_seconds``: until a request's head is complete, and between two pieces of its body.
    ``total_seconds``: from its head to the end of its answer. ``bodies``: bytes of HTTP bodies held
    at once, of all connections. ``decoding``: images being decoded or waiting for it. ``calls``:
    gRPC calls at once.
    """

    head: int = 16 << 10
    body: int = 10 << 20
    images: int = 16
    pixels: int = 50_000_000
    read_seconds: float = 10.0
    total_seconds: float = 30.0
    connections: int = 500
    bodies: int = 256 << 20
    decoding: int = 64
    grpc_message: int = 64 << 20
    calls: int = 64


class RefusedRequest(Exception):  # noqa: N818 - an answer
    """A request that gets no result: an HTTP status, of which gRPC's follows, and the reason."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Overloaded(RefusedRequest):
    """Too much at once: 503 with Retry-After, RESOURCE_EXHAUSTED."""

    retry_after = "1"

    def __init__(self, message: str) -> None:
        super().__init__(503, f"{message}; try again")
