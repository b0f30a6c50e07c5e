"""The HTTP application: its routes, and the guard that every request passes."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hgnetv2_pipeline.printable import shorten
from hgnetv2_pipeline.serving import rest
from hgnetv2_pipeline.serving.classify import classify
from hgnetv2_pipeline.serving.limits import Limits, Overloaded, RefusedRequest
from hgnetv2_pipeline.serving.metrics import CONTENT_TYPE
from hgnetv2_pipeline.serving.service import Service, service_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger(__name__)
PAGE = Path(__file__).parent / "page"
_ASSETS = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/openapi.json": ("openapi.json", "application/json"),
}
_POLICY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
# No secret is behind these, and probes have no token.
_OPEN = frozenset(("/v2/health/live", "/v2/health/ready", *_ASSETS))
_REASON = "hgnetv2.reason"  # of a refusal, for the log
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def http_app(service: Service) -> ASGIApp:
    """The application that uvicorn runs."""
    app = Starlette(
        routes=[
            *rest.routes(),
            Route("/v1/classify", classify, methods=["POST"]),
            Route("/metrics", _metrics),
            *(Route(place, _asset) for place in _ASSETS),
        ],
        exception_handlers={
            RefusedRequest: _refused,
            HTTPException: _not_here,
            ClientDisconnect: _gone,
            Exception: _broken,
        },
    )
    app.state.service = service
    app.state.assets = {
        place: ((PAGE / name).read_bytes(), kind) for place, (name, kind) in _ASSETS.items()
    }
    return _Guard(app, service)


async def _metrics(request: Request) -> Response:
    return Response(service_of(request).metrics.text(), media_type=CONTENT_TYPE)


async def _asset(request: Request) -> Response:
    content, kind = request.app.state.assets[request.url.path]
    return Response(content, media_type=kind, headers=_POLICY)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedRequest)  # noqa: S101 - registered for it
    request.scope[_REASON] = shorten(str(error), 200)
    headers = {"retry-after": error.retry_after} if isinstance(error, Overloaded) else None
    return JSONResponse({"error": str(error)}, error.status, headers)


async def _not_here(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    what = f"{request.method} {shorten(request.url.path)}"
    return JSONResponse({"error": f"{error.detail}: {what}"}, error.status_code, error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _broken(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "an error of the server; its log has the x-request-id"}, 500)


class _Guard:
    """Host, token, time, request id, log: around the application, on every request."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began, service = time.monotonic(), self._service
        headers = dict(scope["headers"])
        request_id = headers.get(b"x-request-id", b"").decode("latin-1")
        if not _ID.fullmatch(request_id):
            request_id = secrets.token_hex(8)
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()), (b"x-request-id", request_id.encode()),
                    *([(b"connection", b"close")] if service.stopping else ()),
                ]  # fmt: skip
            await send(message)

        try:
            async with asyncio.timeout(service.limits.total_seconds):
                refusal = self._refusal(scope, headers)
                await (refusal or self._app)(scope, receive, answer)
        except TimeoutError:
            if not status:  # else uvicorn closes what was not completed
                await _late(service.limits)({"type": "http"}, receive, answer)
        except Exception as error:  # answered by _broken
            _log.exception("request %s", request_id, exc_info=error)
        path = scope["path"]
        service.record(
            _door(path), str(status or "gone"), time.monotonic() - began, request_id,
            method=scope["method"], path=shorten(path), client=(scope["client"] or [""])[0],
            **({"reason": scope[_REASON]} if _REASON in scope else {}),
        )  # fmt: skip

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> Response | None:
        service = self._service
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if sum(name == b"host" for name, _ in scope["headers"]) > 1:
            return JSONResponse({"error": "more than one Host header"}, 400)
        # A page of a stranger may have its own name lead here: its requests bear that name.
        if service.hosts and _without_port(host) not in service.hosts:
            return JSONResponse({"error": f"unknown host {shorten(host, 60)!r}"}, 400)
        if scope["path"] not in _OPEN and not service.knows(
            headers.get(b"authorization", b"").decode("latin-1")
        ):
            said = {"error": "a token is needed: Authorization: Bearer TOKEN"}
            return JSONResponse(said, 401, {"www-authenticate": "Bearer"})
        return None


def _late(limits: Limits) -> Response:
    error = Overloaded(f"no answer within {limits.total_seconds:g} seconds")
    return JSONResponse({"error": str(error)}, 503, {"retry-after": error.retry_after})


def _without_port(host: str) -> str:
    return re.sub(r":\d*$", "", host)


def _door(path: str) -> str:
    """Which kind of path it is; of a closed set, for it is a label."""
    if path.endswith("/infer"):
        return "infer"
    if path == "/v1/classify":
        return "classify"
    return "v2" if path.startswith("/v2") else "other"
