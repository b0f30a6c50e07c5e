"""Loaded by every Python process that tests start: refuses and records any look outside.

Python imports a module of this name at start, from PYTHONPATH first.
"""

import os
import socket
import sys
from typing import Any

_LOG = os.environ.get("HGNETV2_NETWORK_LOG", "")


def is_local(address: Any) -> bool:
    """Whether an address of connect() or getaddrinfo() stays on this machine."""
    host = address[0] if isinstance(address, tuple) else address
    if host is None or isinstance(host, bytes) and host.startswith((b"/", b"\0")):
        return True
    text = host.decode(errors="replace") if isinstance(host, bytes) else str(host)
    return text in ("", "localhost", "::1", "0.0.0.0") or text.startswith(("127.", "/"))  # noqa: S104


def _record(what: str, address: Any) -> None:
    with open(_LOG, "a", encoding="utf-8") as file:  # noqa: PTH123 - no pathlib at start-up
        file.write(f"{what} {address!r} by {' '.join(sys.argv)}\n")


if _LOG:
    _connect, _connect_ex = socket.socket.connect, socket.socket.connect_ex
    _getaddrinfo = socket.getaddrinfo

    def connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and not is_local(address):
            _record("connect", address)
            raise OSError(f"tests allow no connection to {address!r}")
        _connect(self, address)

    def connect_ex(self: socket.socket, address: Any) -> int:
        if self.family != socket.AF_UNIX and not is_local(address):
            _record("connect", address)
            return 101
        return _connect_ex(self, address)

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if not is_local(host):
            _record("look-up", host)
            raise socket.gaierror(f"tests allow no look-up of {host!r}")
        return _getaddrinfo(host, *arguments, **options)

    socket.socket.connect = connect  # type: ignore[method-assign,assignment]
    socket.socket.connect_ex = connect_ex  # type: ignore[method-assign]
    socket.getaddrinfo = getaddrinfo
