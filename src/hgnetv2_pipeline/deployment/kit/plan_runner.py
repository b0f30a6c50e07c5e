"""A TensorRT plan on a GPU: loaded, run as CUDA graphs, its memory given back."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hgnetv2_pipeline.deployment.kit.libraries import (
    TENSORRT,
    Heard,
    Library,
    PlanError,
    gravest,
    listener,
)
from hgnetv2_pipeline.deployment.kit.plans import write_whole

_log = logging.getLogger(__name__)


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

    def close(self) -> None:
        """Give memory and stream back."""


class PlanRunner:
    """A plan ready to run: float32 images [N, 3, H, W] in, float32 logits [N, classes] out.

    ``widths``: of every output by name, logits among them.

    Batches beyond the profile are cut up, and smaller ones than its least filled with copies whose
    answers are dropped. With ``graphs`` a batch as large as the one before is run as a CUDA graph.
    What TensorRT for RTX compiles on this GPU is kept beside the plan, ``<name>.<GPU>.cache``.
    """

    def __init__(
        self,
        path: Path,
        device: Device,
        *,
        library: Library = TENSORRT,
        graphs: bool = True,
    ) -> None:
        trt, plan = library.load(), path.read_bytes()
        self.device = device
        self._graphs_wanted = graphs and not library.portable
        gpu = re.sub(r"[^A-Za-z0-9]+", "-", device.name).strip("-")
        self._cache_file = path.with_suffix(f".{gpu}.cache")
        self._cache: Any = None
        logger, self._heard = listener(trt)
        self._heard.clear()
        # The runtime has to outlive the engine, and the engine its context.
        try:
            self._runtime = trt.Runtime(logger)
        except TypeError as error:  # how the binding says that there is none
            raise PlanError(f"{library.title} cannot start{gravest(self._heard)}") from error
        if library.portable:
            refuse_invalid(trt, self._runtime, plan, self._heard)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise PlanError(
                f"{library.title} {trt.__version__} cannot load this plan: it runs only on the "
                "kind of GPU and the version that built it; build it again here"
                f"{gravest(self._heard)}"
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
        self._context = (
            self._finishing_context(trt, graphs=graphs)
            if library.portable
            else engine.create_execution_context()
        )
        if self._context is None:
            raise PlanError(
                f"{library.title} cannot run this plan now, often for want of GPU memory"
                f"{gravest(self._heard)}"
            )
        self._shape: tuple[int, ...] = ()
        self._compiled: set[int] = set()
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

    def _finishing_context(self, trt: Any, *, graphs: bool) -> Any:
        """A context that compiles for each shape before its first run, and records it itself."""
        config = self._engine.create_runtime_config()
        kinds = trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = kinds.EAGER
        ways = trt.CudaGraphStrategy
        config.cuda_graph_strategy = ways.WHOLE_GRAPH_CAPTURE if graphs else ways.DISABLED
        self._cache = config.create_runtime_cache()
        if self._cache_file.is_file():  # that of another driver or version changes nothing
            self._cache.deserialize(self._cache_file.read_bytes())
        config.set_runtime_cache(self._cache)
        return self._engine.create_execution_context(config)

    def _keep_compiled(self) -> None:
        """Write what was compiled for a new shape; without it the next start takes longer."""
        if self._cache is None:
            return
        self.device.synchronize()
        try:
            write_whole(self._cache_file, bytes(self._cache.serialize()))
        except OSError as error:
            _log.warning(
                "cannot keep %s (%s); the next start compiles again", self._cache_file, error
            )
            self._cache = None

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
            if batch not in self._compiled:
                self._compiled.add(batch)
                self._keep_compiled()
        elif not self._graphs_wanted:
            self._execute()
        else:
            if self._graph is None:  # it has run once with this shape, as it must before that
                self.device.synchronize()
                self._graph = self.device.capture(self._execute)
            self._graph()

    def _execute(self) -> None:
        self._heard.clear()
        if not self._context.execute_async_v3(self.device.stream):
            raise PlanError(f"TensorRT failed to run the plan{gravest(self._heard)}")

    def close(self) -> None:
        """Give the GPU's memory back, the context before the engine before the runtime."""
        self._graph = None
        self._context = self._cache = self._engine = self._runtime = None


_INVALID = {
    "VERSION_MISMATCH": "another version of it built the plan",
    "UNSUPPORTED_CC": "the plan is not for this GPU",
    "OLD_CUDA_DRIVER": "the driver is too old",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory free",
    "MALFORMED_ENGINE": "it is damaged, or no plan of this library",
    "CUDA_ERROR": "CUDA does not work here",
}


def refuse_invalid(trt: Any, runtime: Any, plan: bytes, heard: Heard) -> None:
    """Raise PlanError where TensorRT for RTX says that a plan does not run here, and why."""
    validity, found = runtime.get_engine_validity(plan)
    if validity != trt.EngineValidity.INVALID:
        return
    kinds = trt.EngineInvalidityDiagnostics.__members__
    reasons = [_INVALID.get(name, name) for name, kind in kinds.items() if int(found) & kind.value]
    why = ", ".join(reasons) or gravest(heard).removeprefix(": ") or "it does not say why"
    raise PlanError(
        f"TensorRT for RTX {trt.__version__} cannot run this plan ({why}); build it here, or for "
        "this GPU and version (export.target=tensorrt-rtx, export.gpus)"
    )
