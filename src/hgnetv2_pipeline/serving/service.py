"""What both protocols answer with, whom they let in, and what they count and log."""

from __future__ import annotations

import hmac
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hgnetv2_pipeline.printable import json_text

if TYPE_CHECKING:
    from starlette.requests import Request

    from hgnetv2_pipeline.serving.decoding import Decoders
    from hgnetv2_pipeline.serving.limits import Limits
    from hgnetv2_pipeline.serving.metrics import Metrics
    from hgnetv2_pipeline.serving.repository import Repository

HEAD_LENGTH = "inference-header-content-length"
"""The header that says how long the JSON before raw tensors is."""
BODY = "hgnetv2.body"
"""Where the HTTP protocol leaves a whole body in the scope of its request."""
_log = logging.getLogger(__name__)
_QUIET = ("200", "503", "OK", "RESOURCE_EXHAUSTED")


@dataclass
class Service:
    """What HTTP and gRPC answer with."""

    repository: Repository
    limits: Limits
    decoders: Decoders
    metrics: Metrics
    token: str = ""
    hosts: frozenset[str] = frozenset()
    """Names that the Host header may have; none: any."""
    log_requests: bool = False
    stopping: bool = False
    """Not ready any more; what comes is still answered."""
    closed: bool = False
    """gRPC calls that begin now are refused."""

    def knows(self, authorization: str) -> bool:
        """Whether this header, or gRPC's entry, brings the token; always where there is none."""
        given = authorization.encode(errors="surrogateescape")
        return not self.token or hmac.compare_digest(given, f"Bearer {self.token}".encode())

    def is_full(self, url: bytes, authorization: str) -> bool:
        """Whether a request to infer, with the token where one is needed, finds no room."""
        parts = url.split(b"/", 4)
        if len(parts) < 5 or not parts[4].endswith(b"infer") or not self.knows(authorization):
            return False
        versions = self.repository.models.get(parts[3].decode("latin-1"), {})
        return bool(versions) and all(model.batcher.full for model in versions.values())

    def record(
        self, door: str, status: str, seconds: float, request_id: str, **facts: object
    ) -> None:
        """Count a request, and write its line where it is asked for or something was wrong.

        What was refused for want of room is counted alone: a line each would cost as much.
        """
        self.metrics.count(door, status, seconds)
        good = status in _QUIET
        if self.log_requests or not good:
            _log.log(
                logging.INFO if good else logging.WARNING, "%s",
                json_text({"request": request_id, "door": door, "status": status,
                           "ms": round(1e3 * seconds, 1), **facts}),
            )  # fmt: skip


def service_of(request: Request) -> Service:
    """The service that an HTTP request reached."""
    service: Service = request.app.state.service
    return service


async def body_of(request: Request) -> memoryview:
    """The whole body of a request, once it is there. Raises ClientDisconnect."""
    from starlette.requests import ClientDisconnect

    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    body: memoryview = request.scope[BODY]
    return body
