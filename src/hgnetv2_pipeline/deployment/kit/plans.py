"""TensorRT plans: built from ONNX, kept beside a note of what they were built for, and run.

One code path for TensorRT 10 and 11: networks are strongly typed, so the precision is the ONNX
file's and no builder flag changes it; TF32 alone is a flag, cleared for fp32. The calls are those
of the 11.4 bindings' documentation. A plan is native code: load only plans that you built.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

_log = logging.getLogger(__name__)

# Those of ``choices``, which does not travel with the kit; a test holds that they are the same.
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")
TIMING_CACHE = "timing.cache"


class PlanError(RuntimeError):
    """TensorRT cannot build, load or run a plan; the message is one line."""


class Device(Protocol):
    """Memory and one stream of a GPU; ``cuda_memory.CudaDevice`` is the real one."""

    stream: int
    name: str

    def reserve(self, tensor: str, count: int) -> int:
        """Room for ``count`` float32 values of ``tensor``; its address, the same ever after."""

    def upload(self, tensor: str, values: np.ndarray) -> None:
        """Start copying ``values`` to the tensor's place."""

    def download(self, tensor: str, shape: tuple[int, ...]) -> np.ndarray:
        """Copy the tensor's values back, waiting for the stream."""

    def synchronize(self) -> None:
        """Wait for the stream."""

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Record what ``enqueue`` starts as a CUDA graph; the result starts it again."""

    def mark(self) -> Any:
        """An event at this point of the stream."""

    def between(self, first: Any, last: Any) -> float:
        """Milliseconds from one mark to another, both reached."""

    def forget(self, *events: Any) -> None:
        """Give events back."""


@dataclass(frozen=True)
class BatchProfile:
    """Batch sizes of a plan: the least, the one to be best at, the largest."""

    least: int = 1
    best: int = 1
    most: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.best <= self.most:
            raise PlanError(f"profile {self} must be 1 <= least <= best <= most")


def plan_key(
    onnx_sha256: str, *, tensorrt: str, gpu: str, profile: BatchProfile, precision: str
) -> str:
    """SHA-256 of all that a plan depends on: another GPU, version or profile is another plan."""
    facts = {
        "onnx": onnx_sha256,
        "tensorrt": tensorrt,
        "gpu": gpu,
        "profile": asdict(profile),
        "precision": precision,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def provide_plan(
    onnx: Path,
    folder: Path,
    *,
    precision: str,
    profile: BatchProfile,
    gpu: str,
    workspace_bytes: int = 1 << 30,
) -> Path:
    """The plan of ``onnx`` for this GPU and TensorRT in ``folder``, built if it is not there.

    Beside ``<name>-<key>.plan`` is ``<name>-<key>.json``, what it was built for and the plan's
    SHA-256; a plan that does not match it is built again. ``timing.cache`` makes the next build
    faster.
    """
    import tensorrt as trt

    data = onnx.read_bytes()
    sha = hashlib.sha256(data).hexdigest()
    key = plan_key(
        sha, tensorrt=trt.__version__, gpu=gpu, profile=profile, precision=precision
    )  # fmt: skip
    plan = folder / f"{onnx.stem}-{precision}-{key[:16]}.plan"
    note = plan.with_suffix(".json")
    if plan.is_file() and note.is_file():
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["key"] == key and known["plan_sha256"] == _sha256(plan.read_bytes()):
            return plan
    _log.info("building %s with TensorRT %s for %s; minutes", plan.name, trt.__version__, gpu)
    folder.mkdir(parents=True, exist_ok=True)
    cache = folder / TIMING_CACHE
    built, timings = build_plan(
        data, precision=precision, profile=profile, workspace_bytes=workspace_bytes,
        timing_cache=cache.read_bytes() if cache.is_file() else b"",
    )  # fmt: skip
    _write(cache, timings)
    _write(plan, built)
    facts = {
        "key": key,
        "onnx": onnx.name,
        "onnx_sha256": sha,
        "plan_sha256": _sha256(built),
        "tensorrt": trt.__version__,
        "gpu": gpu,
        "precision": precision,
        "profile": asdict(profile),
    }
    _write(note, (json.dumps(facts, indent=2, sort_keys=True) + "\n").encode())
    return plan


def build_plan(
    onnx: bytes, *, precision: str, profile: BatchProfile, workspace_bytes: int, timing_cache: bytes
) -> tuple[bytes, bytes]:
    """Build the ONNX model; returns the serialised plan and the timing cache as it now is."""
    import tensorrt as trt

    if precision not in PRECISIONS:
        raise PlanError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    # Asked for explicitly by version 10; version 11 knows nothing else and ignores the flag.
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly_typed)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        reasons = [str(parser.get_error(number)) for number in range(parser.num_errors)]
        raise PlanError(
            f"TensorRT cannot read the ONNX model: {' '.join('; '.join(reasons).split())}"
        )
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    if precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and 10 bits of mantissa only
    given = network.get_input(0)
    shapes = [
        (size, *tuple(given.shape)[1:]) for size in (profile.least, profile.best, profile.most)
    ]
    sizes = builder.create_optimization_profile()
    sizes.set_shape(given.name, *shapes)
    if config.add_optimization_profile(sizes) < 0:
        raise PlanError(f"TensorRT does not take the profile {profile} for {given.name}")
    cache = config.create_timing_cache(timing_cache)
    # A cache of another GPU or version is refused, and then an empty one is filled.
    if not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise PlanError("TensorRT could not build a plan; its own message is above")
    return bytes(plan), bytes(config.get_timing_cache().serialize())


class PlanRunner:
    """A plan ready to run: float32 images [N, 3, S, S] in, float32 logits [N, classes] out.

    ``widths``: of every output by name, logits among them.

    Batches beyond the profile are cut up, and smaller ones than its least filled with copies whose
    answers are dropped. With ``graphs`` a batch as large as the one before is run as a CUDA graph.
    """

    def __init__(self, plan: bytes, device: Device, *, graphs: bool = True) -> None:
        import tensorrt as trt

        self.device, self._graphs_wanted = device, graphs
        self._logger = trt.Logger(trt.Logger.WARNING)
        # The runtime has to outlive the engine, and the engine its context.
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise PlanError(
                f"TensorRT {trt.__version__} cannot load this plan: it runs only on the kind of "
                "GPU and the version that built it; build it again here"
            )
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        outputs = [n for n in names if n not in inputs]
        wrong = [n for n in names if engine.get_tensor_dtype(n) != trt.float32]
        if len(inputs) != 1 or not outputs or wrong:
            raise PlanError(
                f"the plan has inputs {inputs} and outputs {outputs}, not float32: {wrong}; one "
                "float32 input and float32 outputs are needed"
            )
        self.input, self.outputs = inputs[0], outputs
        self.output = "logits" if "logits" in outputs else outputs[0]
        least, _, most = engine.get_tensor_profile_shape(self.input, 0)
        self.least, self.most = int(least[0]), int(most[0])
        self.image_shape = tuple(int(edge) for edge in tuple(most)[1:])
        self.classes = int(engine.get_tensor_shape(self.output)[1])
        self._context = engine.create_execution_context()
        self._shape: tuple[int, ...] = ()
        self._graph: Callable[[], None] | None = None
        # Room for the largest batch, once: a CUDA graph keeps the addresses it was recorded with.
        self._context.set_tensor_address(
            self.input, device.reserve(self.input, self.most * int(np.prod(self.image_shape)))
        )
        self.widths = {
            name: int(np.prod(tuple(engine.get_tensor_shape(name))[1:])) for name in outputs
        }
        for name, width in self.widths.items():
            self._context.set_tensor_address(name, device.reserve(name, self.most * width))

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Logits of any number of images."""
        return self.answers(images, [self.output])[0]

    def answers(self, images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        """The outputs of these names for any number of images, [N, width] each."""
        parts = [images[at : at + self.most] for at in range(0, len(images), self.most)]
        found = [self._part(part, outputs) for part in parts]
        return [np.concatenate(of_one) for of_one in zip(*found, strict=True)]

    def _part(self, images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        count = len(images)
        if count < self.least:
            filler = np.repeat(images[-1:], self.least - count, axis=0)
            images = np.concatenate([images, filler])
        self.device.upload(self.input, np.ascontiguousarray(images))
        self.enqueue(len(images))
        return [
            self.device.download(name, (len(images), self.widths[name]))[:count] for name in outputs
        ]

    def enqueue(self, batch: int) -> None:
        """Start one run of ``batch`` images that were uploaded before."""
        shape = (batch, *self.image_shape)
        if shape != self._shape:
            # A graph recorded with another shape may not be run once the context has changed.
            self._graph, self._shape = None, shape
            self._context.set_input_shape(self.input, shape)
            unresolved = self._context.infer_shapes()
            if unresolved:
                raise PlanError(f"shapes of {unresolved} stay unknown for {shape}")
            self._execute()
        elif not self._graphs_wanted:
            self._execute()
        else:
            if self._graph is None:  # it has run once with this shape, as it must before that
                self.device.synchronize()
                self._graph = self.device.capture(self._execute)
            self._graph()

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self.device.stream):
            raise PlanError("TensorRT failed to run the plan; its own message is above")

    def close(self) -> None:
        """Give the GPU's memory back, the context before the engine before the runtime."""
        self._graph = None
        self._context = self._engine = self._runtime = None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
