"""A server as a process of its own, and raw requests to it: what the tests of the room share."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hang_guard import HANG

CLASSES = ("aal", "Bär, brown bear", "cat's eye", "d", "é")
SIDE = 32
HGNETV2 = Path(sys.executable).with_name("hgnetv2")
# With limits of its own, which the command has no options for.
_WITH_LIMITS = (
    "import json, sys; from hgnetv2_pipeline.serving.server import *; "
    "from hgnetv2_pipeline.serving.structured_log import *; write_structured_logs(); "
    "given = json.loads(sys.argv[1]); given['limits'] = Limits(**given['limits']); "
    "run_server(ServerSpec(**given), lambda line: print(line, flush=True))"
)


@dataclass
class Running:
    """A server that is ready."""

    process: subprocess.Popen[str]
    http: str
    grpc: str
    log_file: Path

    def ask(
        self, method: str, path: str, body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:  # fmt: skip
        """Status, headers (lower case) and body of the answer, on a connection of its own."""
        connection = http.client.HTTPConnection(self.http, timeout=HANG)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Any:
        """The JSON of an answer that must be 200."""
        status, _, content = self.ask(method, path, body, headers)
        assert status == 200, (status, content)
        return json.loads(content)

    def raw(self, content: bytes, *, shut: bool = False) -> bytes:
        """What comes back on a connection for ``content``: the last answer, or all there is."""
        host, port = self.http.rsplit(":", 1)
        found = b""
        with socket.create_connection((host, int(port)), timeout=HANG) as connection:
            try:
                connection.sendall(content)
                if shut:
                    connection.shutdown(socket.SHUT_WR)
                while (part := connection.recv(1 << 16)) and not _is_whole(found := found + part):
                    pass
            except (ConnectionResetError, BrokenPipeError):
                pass  # closed while we were sending
        return found

    def log(self) -> list[dict[str, Any]]:
        """The lines of its log so far."""
        return [json.loads(line) for line in self.log_file.read_text("utf-8").splitlines()]

    def resident(self) -> int:
        """Bytes of memory it has."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")

    def alive(self) -> bool:
        """Whether it still runs, and answers."""
        return self.process.poll() is None and self.ask("GET", "/v2/health/live")[0] == 200

    def stop(self) -> int:
        """Its exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(HANG)


def _is_whole(answer: bytes) -> bool:
    """Whether it is one answer, after which the server says that it closes."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    closes = re.search(rb"(?i)\r\nconnection: close", head)
    return bool(end and closes and length and len(body) >= int(length[1]))


@contextmanager
def running(
    folder: Path, *arguments: str, limits: Mapping[str, Any] | None = None, **spec: Any
) -> Iterator[Running]:
    """``hgnetv2 serve`` with ``arguments`` on free ports; with ``limits`` or a ``spec``, the same
    from Python. ``folder`` is for its log.
    """
    if limits is None and not spec:
        command = [str(HGNETV2), "serve", *arguments, "--port", "0", "--grpc-port", "0"]
        if "--engine" not in arguments:
            command += ["--engine", "ort", "--threads", "1"]
    else:
        given = {
            "sources": [text.split("=", 1) for text in arguments], "port": 0, "grpc_port": 0,
            "engine": "ort", "threads": 1, "limits": dict(limits or {}), **spec,
        }  # fmt: skip
        command = [sys.executable, "-c", _WITH_LIMITS, json.dumps(given)]
    log = folder / "server.log"
    with (
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            assert words[:1] == ["ready:"], log.read_text(encoding="utf-8")
            addresses = [word.partition("://")[2] for word in words[1:3]]
            yield Running(process, addresses[0], addresses[1], log)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()


def picture(seed: int = 0, kind: str = "PNG", size: tuple[int, int] = (50, 40)) -> bytes:
    """The bytes of a file of random pixels, or of a smooth one for JPEG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def tensor(count: int = 1, seed: int = 0, side: int = SIDE) -> np.ndarray:
    """float32 [count, 3, side, side]."""
    random = np.random.default_rng(seed)
    return random.standard_normal((count, 3, side, side)).astype(np.float32)


def infer_body(images: np.ndarray, **changes: Any) -> tuple[bytes, dict[str, str]]:
    """The body and headers of a request with binary tensors; ``changes`` of its only input."""
    raw = images.tobytes()
    entry = {
        "name": "images", "datatype": "FP32", "shape": list(images.shape),
        "parameters": {"binary_data_size": len(raw)}, **changes,
    }  # fmt: skip
    outputs = [{"name": "logits", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [entry], "outputs": outputs}).encode()
    return head + raw, {"Inference-Header-Content-Length": str(len(head))}


def logits_of(headers: Mapping[str, str], content: bytes) -> np.ndarray:
    """The first output of an answer with binary tensors."""
    length = int(headers["inference-header-content-length"])
    entry = json.loads(content[:length])["outputs"][0]
    size = entry["parameters"]["binary_data_size"]
    return np.frombuffer(content[length : length + size], "<f4").reshape(entry["shape"])


def form(files: Mapping[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """The body and headers of a form with ``files`` by name."""
    said = '--edge\r\nContent-Disposition: form-data; name="image"; filename="{}"\r\n\r\n'
    parts = [said.format(name).encode() + content + b"\r\n" for name, content in files.items()]
    return b"".join(parts) + b"--edge--\r\n", {"Content-Type": "multipart/form-data; boundary=edge"}
