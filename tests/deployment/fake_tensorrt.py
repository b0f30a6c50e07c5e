"""A stand-in for TensorRT that computes channel means and notes every call, and memory for it."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

SIDE, CLASSES = 8, ("red", "green", "blue")


class HostDevice:
    """A GPU's memory, events and graphs, on the host."""

    stream = 7

    def __init__(self, calls: list[str], name: str = "stand-in GPU (sm_00)") -> None:
        self.calls, self.name = calls, name
        self.places: dict[str, np.ndarray] = {}

    def reserve(self, tensor: str, count: int) -> int:
        self.calls.append(f"reserve {tensor} {count}")
        self.places[tensor] = np.full(count, np.nan, np.float32)
        return self.places[tensor].ctypes.data

    def upload(self, tensor: str, values: np.ndarray) -> None:
        self.calls.append(f"upload {len(values)}")
        self.places[tensor][: values.size] = values.reshape(-1)

    def start_download(self, tensor: str, count: int) -> None:
        self.calls.append(f"start download {count}")

    def download(self, tensor: str, shape: tuple[int, ...]) -> np.ndarray:
        self.calls.append("download")
        return self.places[tensor][: int(np.prod(shape))].reshape(shape).copy()

    def synchronize(self) -> None:
        self.calls.append("synchronize")

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        self.calls.append("capture")

        def replay() -> None:
            self.calls.append("replay")
            enqueue()

        return replay

    def mark(self) -> int:
        self.calls.append("mark")
        return len(self.calls)

    def between(self, first: int, last: int) -> float:
        return float(last - first)

    def close(self) -> None:
        self.calls.append("device closed")

    def forget(self, *events: int) -> None:
        pass


class Context:
    """Channel means of the images at the address it was given."""

    def __init__(self, calls: list[str], most: int) -> None:
        self.calls, self.most, self.addresses = calls, most, {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.calls.append(f"shape {shape[0]}")
        assert shape[0] <= self.most
        self.shape = shape
        return True

    def infer_shapes(self) -> list[str]:
        self.calls.append("infer")
        return []

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.calls.append(f"address {name}")
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.calls.append(f"execute on {stream}")
        size = int(np.prod(self.shape))
        given = (ctypes.c_float * size).from_address(self.addresses["images"])
        means = np.frombuffer(given, np.float32).reshape(self.shape).mean((2, 3))
        ctypes.memmove(
            self.addresses["logits"], np.ascontiguousarray(means).ctypes.data, means.nbytes
        )
        return True


class Config:
    def __init__(self, calls: list[str], takes_cache: bool) -> None:
        self.calls, self.takes_cache, self.shapes = calls, takes_cache, ()

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.calls.append(f"limit {pool}")

    def clear_flag(self, flag: str) -> None:
        self.calls.append(f"clear {flag}")

    def add_optimization_profile(self, profile: Any) -> int:
        self.calls.append("add profile")
        self.shapes = profile.shapes
        return 0 if profile.shapes[2][0] <= 64 else -1

    def create_timing_cache(self, data: bytes) -> bytes:
        self.calls.append(f"timing cache of {len(data)}")
        return data

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        return self.takes_cache or not cache

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: bytearray(b"timings"))

    def set_compute_capability(self, capability: str, index: int) -> bool:
        self.calls.append(f"capability {capability} of {self.num_compute_capabilities}")
        return index < self.num_compute_capabilities


class RuntimeCache:
    """Grows with every shape that is compiled."""

    def __init__(self, calls: list[str]) -> None:
        self.calls, self.held = calls, b""

    def deserialize(self, blob: bytes) -> bool:
        self.calls.append(f"runtime cache of {len(blob)}")
        self.held = blob
        return True

    def serialize(self) -> bytes:
        return self.held + b"compiled"


class Profile:
    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        assert name == "images"
        self.shapes = shapes


def module(
    calls: list[str],
    *,
    loads: bool = True,
    dtype: str = "float32",
    builds: bool = True,
    context: bool = True,
    takes_cache: bool = True,
    version: str = "11.4",
    invalid: int = 0,
) -> ModuleType:
    """``tensorrt`` as far as it is used; a plan is the JSON of its profile."""
    modes = {"images": "in", "logits": "out"}

    def engine(plan: bytes) -> Any:
        calls.append("deserialize")
        shapes = json.loads(plan)
        return (
            loads
            and SimpleNamespace(
                create_runtime_config=lambda: SimpleNamespace(
                    create_runtime_cache=lambda: RuntimeCache(calls),
                    set_runtime_cache=lambda cache: calls.append("set runtime cache"),
                ),
                num_io_tensors=2,
                get_tensor_name=lambda index: list(modes)[index],
                get_tensor_mode=modes.__getitem__,
                get_tensor_dtype=lambda name: dtype,
                get_tensor_shape=lambda name: (-1, *shapes[0][1:]) if name == "images" else (-1, 3),
                get_tensor_profile_shape=lambda name, index: shapes,
                create_execution_context=lambda *config: (
                    Context(calls, shapes[2][0]) if context else None
                ),
            )
            or None
        )

    class Builder:
        def __init__(self, logger: Any) -> None:
            self.config = Config(calls, takes_cache)

        def create_network(self, flags: int) -> Any:
            calls.append(f"network {flags}")
            return SimpleNamespace(
                num_inputs=1,
                num_outputs=1,
                get_input=lambda index: SimpleNamespace(name="images", shape=(-1, 3, SIDE, SIDE)),
            )

        def create_builder_config(self) -> Config:
            return self.config

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Any, config: Config) -> bytearray | None:
            calls.append("build")
            return bytearray(json.dumps(config.shapes).encode()) if builds else None

    class OnnxParser:
        num_errors = 1

        def __init__(self, network: Any, logger: Any) -> None:
            pass

        def parse(self, data: bytes) -> bool:
            calls.append("parse")
            return data != b"broken"

        def get_error(self, index: int) -> str:
            return "no such\noperator"

    def runtime(logger: Any) -> Any:
        found = (2 if invalid else 0, invalid)
        return SimpleNamespace(
            deserialize_cuda_engine=engine, get_engine_validity=lambda plan: found
        )

    fake = ModuleType("tensorrt")
    fake.__dict__.update(
        __version__=version,
        __spec__=SimpleNamespace(name="tensorrt"),
        float32="float32",
        TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
        MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
        BuilderFlag=SimpleNamespace(TF32="TF32"),
        ILogger=type("ILogger", (), {"WARNING": 2}),
        Runtime=runtime,
        # What TensorRT for RTX has besides.
        ComputeCapability=SimpleNamespace(SM89="SM89"),
        CudaGraphStrategy=SimpleNamespace(DISABLED=0, WHOLE_GRAPH_CAPTURE=1),
        DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER=1),
        EngineValidity=SimpleNamespace(INVALID=2),
        EngineInvalidityDiagnostics=SimpleNamespace(
            __members__={
                "VERSION_MISMATCH": SimpleNamespace(value=1),
                "UNSUPPORTED_CC": SimpleNamespace(value=2),
            }
        ),
        Builder=Builder,
        OnnxParser=OnnxParser,
    )
    return fake
