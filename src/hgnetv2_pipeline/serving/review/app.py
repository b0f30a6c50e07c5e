"""The HTTP side of a review: page, pictures, decisions; every request shows token and Host."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from hgnetv2_pipeline.data.decisions import StaleDecisionError
from hgnetv2_pipeline.errors import DataError, DiskFullError, ParameterError
from hgnetv2_pipeline.serving.review.session import ReviewSession

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

HOST = "127.0.0.1"
_NAMES = ("127.0.0.1", "localhost")
_PAGE = Path(__file__).parent / "page"
_ASSETS = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
_POLICY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_BODY = 4096  # bytes of a decision


def review_app(session: ReviewSession, token: str) -> ASGIApp:
    """The application for those who know ``token``."""
    app = Starlette(
        routes=[
            *(Route(place, _asset) for place in _ASSETS),
            Route("/contents.json", _contents),
            Route("/state.json", _state),
            Route("/picture/{number:int}", _picture),
            Route("/decide", _decide, methods=["POST"]),
        ],
        exception_handlers=dict.fromkeys((DataError, DiskFullError, ParameterError), _refused),
    )
    app.state.session = session
    return _Guard(app, token)


def _asset(request: Request) -> Response:
    name, kind = _ASSETS[request.url.path]
    return Response((_PAGE / name).read_bytes(), media_type=kind, headers=_POLICY)


def _contents(request: Request) -> Response:
    return JSONResponse(request.app.state.session.contents(), headers=_POLICY)


def _state(request: Request) -> Response:
    return JSONResponse(request.app.state.session.state(), headers=_POLICY)


def _picture(request: Request) -> Response:
    content = request.app.state.session.picture(request.path_params["number"])
    kind = "image/png" if content.startswith(b"\x89PNG") else "image/jpeg"
    return Response(content, media_type=kind, headers={**_POLICY, "cache-control": "private"})


async def _decide(request: Request) -> Response:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _BODY:
            raise ParameterError(f"a decision has {_BODY:,} bytes at most")
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise ParameterError("a decision is a JSON object")
    session = request.app.state.session
    try:
        await run_in_threadpool(session.decide, said)
    except StaleDecisionError as error:
        state = await run_in_threadpool(session.state)
        return JSONResponse({"error": str(error), **state}, 409, _POLICY)
    return JSONResponse(await run_in_threadpool(session.state), headers=_POLICY)


async def _refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400, _POLICY)


class _Guard:
    """Lets in who came by the address that was printed, under a name of this machine."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token
        # Cookies know no ports: two reviews on one machine must not share one.
        self._cookie = f"hgnetv2-review-{secrets.token_hex(4)}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await (self._answer(scope) or self._app)(scope, receive, send)

    def _answer(self, scope: Scope) -> Response | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "").lower()
        # A page of a stranger may have its own name lead here: its requests bear that name.
        if host.rpartition(":")[0] not in _NAMES and host not in _NAMES:
            return _said("unknown host", 400)
        if headers.get(b"origin", f"http://{host}").lower() != f"http://{host}":
            return _said("a page from elsewhere may not ask", 403)
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and self._knows(given):
            # Out of the address bar, so that it is in no history and no screenshot.
            answer = RedirectResponse("/", 303, _POLICY)
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="lax")
            return answer
        try:
            cookies = SimpleCookie(headers.get(b"cookie", ""))
        except CookieError:
            cookies = SimpleCookie()
        known = cookies.get(self._cookie)
        if known is None or not self._knows(known.value):
            return _said("open the address that hgnetv2 review printed: it has the token", 403)
        return None

    def _knows(self, token: str) -> bool:
        return secrets.compare_digest(token.encode(), self._token.encode())


def _said(what: str, status: int) -> Response:
    return JSONResponse({"error": what}, status, _POLICY)


def run_review(session: ReviewSession, port: int, ready: Callable[[str], object]) -> None:
    """Serve the page on this machine until Ctrl-C; ``ready`` is called with its address, once.

    Raises ParameterError for a port in use.
    """
    try:
        listener = socket.create_server((HOST, port))
    except OSError as error:
        raise ParameterError(
            f"cannot listen on {HOST} port {port}: {error.strerror} (--port)"
        ) from error
    token = secrets.token_urlsafe(18)
    config = uvicorn.Config(
        review_app(session, token), log_config=None, access_log=False, server_header=False,
        proxy_headers=False, lifespan="off", ws="none", timeout_graceful_shutdown=3,
    )  # fmt: skip
    with listener:
        ready(f"http://{HOST}:{listener.getsockname()[1]}/?token={token}")
        uvicorn.Server(config).run(sockets=[listener])
