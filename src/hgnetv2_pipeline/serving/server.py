"""A server's life: models loaded, both protocols listening, and a drained end on SIGTERM."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

import uvicorn

from hgnetv2_pipeline.deployment.engines.base import Engine
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.serving.batching import BatchSpec
from hgnetv2_pipeline.serving.decoding import Decoders
from hgnetv2_pipeline.serving.http_app import http_app
from hgnetv2_pipeline.serving.http_protocol import bounded_protocol
from hgnetv2_pipeline.serving.limits import Limits
from hgnetv2_pipeline.serving.metrics import Metrics
from hgnetv2_pipeline.serving.repository import Repository
from hgnetv2_pipeline.serving.service import Service

_log = logging.getLogger(__name__)
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_GPU_BATCH = 16
_WAITING = 10  # eight clients who ask one after the other are never refused
_KEEP_ALIVE = 75  # seconds that an idle connection is kept; clients keep theirs for a minute or so
_GRACE = 0.5  # seconds in which requests on kept connections are still taken, each the last of its
_LAST_CALLS = 0.2  # seconds in which calls are answered with UNAVAILABLE


@dataclass(frozen=True)
class ServerSpec:
    """What ``run_server`` serves, and where.

    ``sources``: (name or nothing, path). ``port`` and ``grpc_port`` 0: any free one; ``grpc_port``
    None: no gRPC. ``batch_size`` None: 1 on a CPU, where batches do not make an image cheaper, and
    16 on a GPU. ``waiting`` None: 10 images, or four batches. ``delay``: seconds. ``hosts``: names
    by which clients may call the server besides.
    """

    sources: list[tuple[str, str]]
    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = 8001
    engine: str = "auto"
    device: str | None = None
    threads: int = 0
    batch_size: int | None = None
    delay: float = 0.002
    waiting: int | None = None
    token: str = ""
    hosts: tuple[str, ...] = ()
    log_requests: bool = False
    limits: Limits = field(default_factory=Limits)

    def batching(self, engine: Engine) -> BatchSpec:
        """How the requests of an engine become batches."""
        size = self.batch_size or (_GPU_BATCH if engine.place == "cuda" else 1)
        return BatchSpec(size, self.delay, self.waiting or max(_WAITING, 4 * size))

    @property
    def known_hosts(self) -> frozenset[str]:
        """Names that a Host header may have: all, where a token is asked for and none are named."""
        if self.hosts or not self.token:
            return frozenset((*_LOOPBACK, self.host.lower(), *(h.lower() for h in self.hosts)))
        return frozenset()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on ``host``."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def run_server(spec: ServerSpec, ready: Callable[[str], object]) -> None:
    """Serve until SIGTERM or SIGINT; ``ready`` is told once, in a line, where and what.

    Raises ParameterError for a port in use, and what loading the models raises.
    """
    new_loop = None
    if find_spec("uvloop") is not None:
        import uvloop

        new_loop = uvloop.new_event_loop
    # So long the engine's thread waits for the event loop's at most. With Python's own 5 ms a
    # server that refused hundreds of requests a second took longer for those that it accepted.
    sys.setswitchinterval(0.0005)
    if spec.port and spec.port == spec.grpc_port:
        raise ParameterError(f"--port and --grpc-port are both {spec.port}; give gRPC another")
    listener = _bound(spec.host, spec.port)
    with listener, asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_serve(spec, listener, ready))


async def _serve(spec: ServerSpec, listener: socket.socket, ready: Callable[[str], object]) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    load = partial(load_engine, engine=spec.engine, device=spec.device, threads=spec.threads)
    repository = Repository(spec.sources, load, spec.batching)
    await repository.load_all()
    service = Service(
        repository=repository, limits=spec.limits, decoders=Decoders(spec.limits),
        metrics=Metrics(repository), token=spec.token, hosts=spec.known_hosts,
        log_requests=spec.log_requests,
    )  # fmt: skip
    by_http = _Uvicorn(_uvicorn_config(service))
    by_grpc, places = None, [f"http://{_address(listener)}"]
    if spec.grpc_port is not None:
        from hgnetv2_pipeline.serving.grpc_service import grpc_server

        by_grpc = grpc_server(service)
        places.append(f"grpc://{await _listen(by_grpc, spec.host, spec.grpc_port)}")
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    serving = asyncio.create_task(by_http.serve(sockets=[listener]))
    watching = asyncio.create_task(repository.watch())
    while not by_http.started:
        await asyncio.sleep(0.01)
    models = ", ".join(f"{model.name} {model.version}" for model in repository)
    ready(f"ready: {' '.join(places)} ({models})")
    await asyncio.wait(
        {serving, watching, asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)  # a second one ends the process at once
    service.stopping = True
    _log.info("stopping: what was begun is answered")
    await asyncio.sleep(_GRACE)
    watching.cancel()
    if by_grpc is not None:
        # gRPC cancels calls that it has not begun when it is stopped: until none come they are told
        # to go elsewhere.
        service.closed = True
        await asyncio.sleep(_LAST_CALLS)
        await by_grpc.stop(spec.limits.total_seconds)
    by_http.should_exit = True
    await serving
    await repository.close()
    service.decoders.close()
    _log.info("stopped")


class _Uvicorn(uvicorn.Server):
    """Signals are ours: they stop both protocols, in order."""

    def capture_signals(self) -> Any:
        return nullcontext()


def _uvicorn_config(service: Service) -> uvicorn.Config:
    return uvicorn.Config(
        http_app(service),
        http=bounded_protocol(service),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(service.limits.total_seconds),
    )


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has its address, and does not listen yet."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise ParameterError(
            f"cannot listen on {host} port {port}: {error.strerror} (--host, --port)"
        ) from error
    return listener


async def _listen(server: Any, host: str, port: int) -> str:
    place = f"[{host}]" if ":" in host else host
    try:
        bound = server.add_insecure_port(f"{place}:{port}")
    except RuntimeError as error:
        raise ParameterError(
            f"cannot listen on {host} port {port} for gRPC: is it in use? (--grpc-port, --no-grpc)"
        ) from error
    await server.start()
    return f"{place}:{bound}"


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
