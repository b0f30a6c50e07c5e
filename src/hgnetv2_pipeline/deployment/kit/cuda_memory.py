"""A GPU's memory, stream, events and graphs through CUDA's own Python bindings; no PyTorch."""

from __future__ import annotations

import ctypes
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from hgnetv2_pipeline.deployment.kit.libraries import PlanError


class CudaError(PlanError):
    """A CUDA call failed; the message is one line."""


def find_driver() -> None:
    """Raise CudaError unless NVIDIA's driver is installed; costs no import."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(name)
    except OSError as error:
        raise CudaError(
            f"there is no NVIDIA driver on this machine ({name} is not found)"
        ) from error


class CudaDevice:
    """The first GPU (``CUDA_VISIBLE_DEVICES`` chooses which that is).

    ``stream`` is one of its own: on the default one TensorRT has to wait twice. Copies go through
    pinned host memory, so that they are started and not waited for. ``name``: the GPU with its
    compute capability.
    """

    def __init__(self) -> None:
        find_driver()
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise CudaError(
                f"CUDA's Python bindings cannot be imported ({error}); pip install cuda-bindings"
            ) from error
        self._cuda = runtime
        count = self._call("cudaGetDeviceCount", name="look for GPUs")
        if not count:
            raise CudaError("there is no NVIDIA GPU on this machine")
        facts = self._call("cudaGetDeviceProperties", 0)
        self.name = f"{_text(facts.name)} (sm_{facts.major}{facts.minor})"
        self.versions = {
            "cuda_runtime": str(self._call("cudaRuntimeGetVersion")),
            "cuda_driver": str(self._call("cudaDriverGetVersion")),
        }
        stream = self._call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
        self._stream, self.stream = stream, int(stream)
        self._places: dict[str, tuple[int, int, np.ndarray]] = {}

    def reserve(self, tensor: str, count: int) -> int:
        """Room for ``count`` float32 values of ``tensor``; its address, the same ever after."""
        size = count * 4
        if tensor not in self._places:
            place = int(self._call("cudaMalloc", size))
            pinned = int(self._call("cudaMallocHost", size))
            host = np.ctypeslib.as_array((ctypes.c_float * count).from_address(pinned))
            self._places[tensor] = place, pinned, host
        place, _, host = self._places[tensor]
        if len(host) < count:
            raise CudaError(f"{tensor} was given room for {len(host)} values, not {count}")
        return place

    def upload(self, tensor: str, values: np.ndarray) -> None:
        """Start copying ``values`` to the tensor's place."""
        place, pinned, host = self._places[tensor]
        self.synchronize()  # an earlier copy may still read the pinned memory
        host[: values.size] = values.reshape(-1)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", place, pinned, values.nbytes, kind, self._stream)

    def start_download(self, tensor: str, count: int) -> None:
        """Start copying ``count`` values back to pinned memory."""
        place, pinned, _ = self._places[tensor]
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", pinned, place, count * 4, kind, self._stream)

    def download(self, tensor: str, shape: tuple[int, ...]) -> np.ndarray:
        """Copy the tensor's values back, waiting for the stream."""
        count = int(np.prod(shape))
        self.start_download(tensor, count)
        self.synchronize()
        return self._places[tensor][2][:count].reshape(shape).copy()

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._call("cudaStreamSynchronize", self._stream)

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Record what ``enqueue`` starts as a CUDA graph; the result starts it again."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            enqueue()
        finally:
            graph = self._call("cudaStreamEndCapture", self._stream)
        ready = self._call("cudaGraphInstantiate", graph, 0)
        self._call("cudaGraphDestroy", graph)

        def launch() -> None:
            self._call("cudaGraphLaunch", ready, self._stream)

        # Every change of the batch size is a new graph: the old one goes with the last who knew it.
        weakref.finalize(launch, self._call, "cudaGraphExecDestroy", ready).atexit = False
        return launch

    def mark(self) -> Any:
        """An event at this point of the stream."""
        event = self._call("cudaEventCreate")
        self._call("cudaEventRecord", event, self._stream)
        return event

    def between(self, first: Any, last: Any) -> float:
        """Milliseconds from one mark to another, both reached."""
        return float(self._call("cudaEventElapsedTime", first, last))

    def forget(self, *events: Any) -> None:
        """Give events back."""
        for event in events:
            self._call("cudaEventDestroy", event)

    def close(self) -> None:
        """Give memory and stream back."""
        for place, pinned, _ in self._places.values():
            self._call("cudaFree", place)
            self._call("cudaFreeHost", pinned)
        self._places.clear()
        self._call("cudaStreamDestroy", self._stream)

    def _call(self, function: str, *arguments: Any, name: str = "") -> Any:
        status, *result = getattr(self._cuda, function)(*arguments)
        if int(status) != 0:
            raise CudaError(f"cannot {name or 'call ' + function}: CUDA says {status.name}")
        return result[0] if result else None


def _text(value: Any) -> str:
    return value.decode().rstrip("\0") if isinstance(value, bytes) else str(value)
