"""uvicorn's HTTP protocol with bounds on what a connection may cost before it has been answered.

uvicorn hands a body on in pieces of 64 KiB, and has no bound on the length of a head, on bodies, or
on the time that a client takes to send them. Here a body is handed on once, whole, in memory where
the tensor in it is aligned: it is not copied again on its way to the engine.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any, ClassVar

import httptools
import numpy as np
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hgnetv2_pipeline.serving.limits import Limits, Overloaded
from hgnetv2_pipeline.serving.service import BODY, HEAD_LENGTH, Service

_LINGER = 1.0  # seconds that a refused client is listened to, so that it can read why
_ALIGNMENT = 16  # bytes, of what NumPy allocates


def _answer(status: int, message: str, more: str = "") -> bytes:
    text = json.dumps({"error": message})
    if status == 503:
        more += f"retry-after: {Overloaded.retry_after}\r\n"
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(text)}\r\n{more}\r\n{text}"
    ).encode()


_FULL = _answer(503, str(Overloaded("the queue is full")))


class BoundedProtocol(HttpToolsProtocol):
    """One connection. ``bounded_protocol`` makes the class that uvicorn takes."""

    limits: ClassVar[Limits]
    service: ClassVar[Service]
    held: ClassVar[int]  # bytes of bodies, of all connections

    def connection_made(self, transport: Any) -> None:
        """Refuse one connection too many; listen to others for as long as may be."""
        super().connection_made(transport)
        self._refused = self._in_body = self._turned_away = False
        self._head = self._raw = self._own = self._end = self._left = 0
        self._length: int | None = None
        self._body: memoryview | bytearray = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        if len(self.connections) > self.limits.connections:
            self._refuse(503, f"{self.limits.connections} connections are open; try again")
        else:
            self._listen()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what was read."""
        self._settle()
        self._release()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, within the bounds of a head and of what a body may take with its framing."""
        if self._refused:
            return
        self._heard = self.loop.time()
        if self._in_body:
            self._raw += len(data)
        else:
            self._head += len(data)
        while data and not self._refused:
            data = self._take(data) if self._left else self._feed(data)
        if self._in_body and self._raw > 2 * self.limits.body:
            self._refuse(413, self._too_large())
        elif not self._in_body and self._head > self.limits.head:
            self._refuse(431, f"the head is longer than {self.limits.head:,} bytes")

    def _feed(self, data: bytes) -> bytes:
        """Give data to the parser; what it has left, behind the head of a request that asks for
        another protocol, is given back. Such a request is answered in this one, as if it had not
        asked: clients who can speak HTTP/2 do, with a body behind it.
        """
        self._unset_keepalive_if_required()
        rest = b""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as asked:
            rest = data[asked.args[0] :]
            self.parser = httptools.HttpRequestParser(self)
        except httptools.HttpParserError:
            self._refuse(400, "this is no HTTP request")
        if self._in_body and self._length is not None:
            self._left = self._length - self._end
        return rest

    def _take(self, data: bytes) -> bytes:
        """Take what is left of an announced body past the parser, which would copy it once more.

        What comes after it is given back.
        """
        piece, rest = (data, b"") if len(data) <= self._left else (
            data[: self._left], data[self._left :]
        )  # fmt: skip
        self._left -= len(piece)
        self.on_body(piece)
        if not self._left:
            self.parser = httptools.HttpRequestParser(self)  # the old one waits for these bytes
            self.on_message_complete()
        return rest

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        if self._timer is None:
            self._listen()

    def on_headers_complete(self) -> None:
        """Refuse a body that is announced to be too large, before it comes."""
        self._head, self._raw, self._end, self._in_body = 0, 0, 0, True
        self._length = tensor_at = None
        authorization = b""
        for name, value in self.headers:
            if name == b"content-length":  # llhttp has made sure that it is a number, and one
                self._length = int(value)
            elif name == HEAD_LENGTH.encode() and value.isdigit():
                tensor_at = int(value[:9])
            elif name == b"authorization":
                authorization = value
            elif name == b"transfer-encoding" and self.parser.should_upgrade():
                self._refuse(400, "a request for another protocol needs a Content-Length")
            elif name == b"content-encoding" and value.lower() != b"identity":
                self._refuse(415, "Content-Encoding is not supported; send the body as it is")
        if self._length is None:
            self._body = bytearray()
        elif self._length > self.limits.body:
            self._refuse(413, self._too_large())
        else:
            before = -(tensor_at or 0) % _ALIGNMENT
            self._body = np.empty(before + self._length, np.uint8).data[before:]
        if self._refused:
            return
        answered = self.cycle is None or self.cycle.response_complete
        if answered and self.service.is_full(self.url, authorization.decode("latin-1")):
            self._turn_away()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body."""
        start, self._end = self._end, self._end + len(body)
        if self._refused or self._turned_away or self.cycle.response_complete:
            return
        self._own += len(body)
        type(self).held += len(body)
        if self._end > self.limits.body:
            self._refuse(413, self._too_large())
        elif self.held > self.limits.bodies:
            self._refuse(503, "too many bodies at once; try again")
        elif isinstance(self._body, bytearray):
            self._body += body
        else:
            self._body[start : self._end] = body

    def on_message_complete(self) -> None:
        """Hand the body on."""
        if self.parser.should_upgrade() and self._end < (self._length or 0):
            return  # the parser takes the body for the other protocol's; it is still to come
        if self._length is not None and self._end != self._length:
            # Never more than has come: the memory of a body is not cleared beforehand.
            self._refuse(400, "the body is not whole")
        self._settle()
        self._in_body = False
        self._head = 0
        if self._turned_away:
            self._turned_away = False
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        elif not self._refused:
            self.scope[BODY] = memoryview(self._body)  # type: ignore[literal-required]
            self._body = bytearray()
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """The request is answered."""
        self._release()
        super().on_response_complete()

    def _too_large(self) -> str:
        return f"the body is larger than {self.limits.body:,} bytes"

    def _listen(self) -> None:
        self._heard = self.loop.time()
        self._timer = self.loop.call_later(self.limits.read_seconds, self._late)

    def _settle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        left = self._heard + self.limits.read_seconds - self.loop.time()
        if self._in_body and left > 0:
            self._timer = self.loop.call_later(left, self._late)
            return
        seconds = f"{self.limits.read_seconds:g}"
        self._refuse(408, f"no whole request within {seconds} seconds, or none of its body in them")

    def _release(self) -> None:
        type(self).held -= self._own
        self._own = 0

    def _turn_away(self) -> None:
        """Say that the queue is full, past the application: under load most requests end here."""
        self._turned_away = True
        self.transport.write(_FULL)
        self.service.metrics.count("infer", "503", 0.0)

    def _refuse(self, status: int, message: str) -> None:
        """Answer here, past the application, and close."""
        if self._refused:
            return
        self._refused = True
        self._settle()
        if self.transport.is_closing():
            return
        cycle = self.cycle
        begun = cycle is not None and not cycle.response_complete
        if begun:  # the application learns that its client has gone
            cycle.disconnected = True
            cycle.message_event.set()
        if begun and cycle.response_started:
            self.transport.abort()
            return
        self.transport.write(_answer(status, message, "connection: close\r\n"))
        # Closed with bytes unread, the kernel would throw away what the client has not read yet.
        self.loop.call_later(_LINGER, self.transport.close)


def bounded_protocol(service: Service) -> type[BoundedProtocol]:
    """The class of the connections of one server."""
    own = {"limits": service.limits, "service": service, "held": 0}
    return type("Connection", (BoundedProtocol,), own)
