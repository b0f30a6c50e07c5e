"""A real ``tritonserver`` for tests: that of the package nvidia-pytriton, on this machine alone.

It has the Python backend and no other, so a network is put behind that one, its configuration
otherwise as it is written: ``on_python``.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sysconfig
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("nvidia-pytriton==0.7.0", "tritonclient[http,grpc]", "onnxruntime", "pillow")
NETWORK = """
import os
import onnxruntime
import triton_python_backend_utils as backend

class TritonPythonModel:
    def initialize(self, args):
        file = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])

    def execute(self, requests):
        names = [output.name for output in self.session.get_outputs()]
        answers = []
        for request in requests:
            images = backend.get_input_tensor_by_name(request, "images").as_numpy()
            found = zip(names, self.session.run(names, {"images": images}))
            answers.append(backend.InferenceResponse([backend.Tensor(*each) for each in found]))
        return answers
"""


def with_path(source: str, site: Path) -> str:
    """``source`` with ``site`` in its search path: the backend's Python starts without it."""
    head, future, rest = source.partition("from __future__ import annotations\n")
    return (
        f"{head}{future}import sys; sys.path.insert(0, {str(site)!r})\n{rest}"
        if future
        else (f"import sys; sys.path.insert(0, {str(site)!r})\n{source}")
    )


def on_python(repository: Path, copy: Path, site: Path, *, networks: bool = True) -> Path:
    """A copy of a repository whose Python models find their packages in ``site``; with ``networks``
    those of ONNX Runtime are run by the Python backend as well.
    """
    shutil.copytree(repository, copy)
    for config in copy.glob("*/config.pbtxt"):
        text = config.read_text(encoding="utf-8")
        model = config.parent / "1" / "model.py"
        if networks and 'backend: "onnxruntime"' in text:
            config.write_text(text.replace("onnxruntime", "python"), encoding="utf-8")
            model.write_text(NETWORK, encoding="utf-8")
        if model.is_file():
            model.write_text(with_path(model.read_text(encoding="utf-8"), site), encoding="utf-8")
    return copy


@dataclass
class Running:
    """A server: its addresses, its log and the Python of its environment."""

    http: str
    grpc: str
    log: Path
    python: Path

    def says(self, health: str) -> bool:
        """Whether the server is ``live`` or, with all models of it, ``ready``."""
        try:
            with urllib.request.urlopen(f"http://{self.http}/v2/health/{health}") as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def client(self, *words: object) -> subprocess.CompletedProcess[str]:
        """A Python script of the tests in the environment that has tritonclient."""
        return subprocess.run(
            [str(self.python), *map(str, words)], capture_output=True, text=True, check=False
        )


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def site_of(python: Path) -> Path:
    """Where the packages of an environment are."""
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    return site


@contextmanager
def tritonserver(
    python: Path, repository: Path, work: Path, options: Sequence[str] = ()
) -> Iterator[Running]:
    """The server with ``repository`` until the body has ended; whatever loads, it runs."""
    site = site_of(python)
    server = site / "pytriton" / "tritonserver"
    backends = work / "backends"
    if not backends.exists():
        shutil.copytree(server / "backends", backends)
        version = sysconfig.get_python_version()
        stub = "triton_python_backend_stub"
        shutil.copy(server / "python_backend_stubs" / version / stub, backends / "python" / stub)
    http, grpc, metrics = _free_ports(3)
    libraries = [sysconfig.get_config_var("LIBDIR"), str(site / "nvidia_pytriton.libs")]
    log = work / f"{repository.name}.log"
    words = [
        server / "bin" / "tritonserver", "--model-repository", repository,
        "--backend-directory", backends, "--exit-on-error", "false",
    ]  # fmt: skip
    for kind, port in (("http", http), ("grpc", grpc), ("metrics", metrics)):
        words += [f"--{kind}-address", "127.0.0.1", f"--{kind}-port", str(port)]
    running = Running(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", log, python)
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*map(str, words), *options], stdout=file, stderr=file, stdin=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": ":".join(libraries)},
        )  # fmt: skip
    try:
        while process.poll() is None and not running.says("live"):
            time.sleep(0.05)
        assert process.poll() is None, log.read_text()
        yield running
    finally:
        process.terminate()
        process.wait()
