"""TensorRT plans on an NVIDIA GPU, TensorRT 10 and 11.

Not yet run on a GPU: the order of the calls follows the documentation of the 11.4 bindings and is
held by a test with a stand-in module. A plan is native code: load only plans you built yourself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.engines.base import (
    Engine,
    EngineUnavailable,
    check_classes,
    choose_card,
)
from hgnetv2_pipeline.errors import WeightsError

if TYPE_CHECKING:
    from hgnetv2_pipeline.data import Preprocess


class DeviceMemory(Protocol):
    """Buffers on the GPU and the stream on which they are used."""

    stream: int
    device: str

    def put(self, images: np.ndarray) -> int:
        """Copy a float32 array to the device; its address there."""

    def reserve(self, shape: tuple[int, ...]) -> int:
        """Room for a float32 result; its address."""

    def fetch(self) -> np.ndarray:
        """Wait for the stream and copy the reserved result back."""


class TorchMemory:
    """``DeviceMemory`` through PyTorch's CUDA tensors, on a stream of its own.

    TensorRT asks for another stream than the default one, on which it would have to wait twice.
    """

    def __init__(self) -> None:
        import torch

        if not torch.cuda.is_available():
            raise EngineUnavailable("tensorrt: PyTorch sees no NVIDIA GPU on this machine")
        self._torch = torch
        self._stream = torch.cuda.Stream()
        self.stream = int(self._stream.cuda_stream)
        self.device = torch.cuda.get_device_name()
        self._input: Any = None
        self._output: Any = None

    def put(self, images: np.ndarray) -> int:
        with self._torch.cuda.stream(self._stream):
            if self._input is None or self._input.shape != images.shape:
                self._input = self._torch.empty(images.shape, device="cuda")
            self._input.copy_(self._torch.from_numpy(images))
        return int(self._input.data_ptr())

    def reserve(self, shape: tuple[int, ...]) -> int:
        with self._torch.cuda.stream(self._stream):
            if self._output is None or tuple(self._output.shape) != shape:
                self._output = self._torch.empty(shape, device="cuda")
        return int(self._output.data_ptr())

    def fetch(self) -> np.ndarray:
        with self._torch.cuda.stream(self._stream):
            return np.asarray(self._output.cpu().numpy())


class TensorRTEngine(Engine):
    """A deserialised plan with one float32 image input and one float32 logits output.

    The card comes from the text files beside the plan. Batches larger than the plan's profile are
    cut up, smaller ones than its least filled with copies whose answers are dropped.
    """

    name = "tensorrt"

    def __init__(
        self,
        path: Path,
        *,
        preprocess: Preprocess | None = None,
        classes: Sequence[str] | None = None,
        memory: DeviceMemory | None = None,
    ) -> None:
        import tensorrt as trt

        path = Path(path)
        card = choose_card(lambda: ModelCard.from_folder(path.parent), preprocess, classes)
        self._memory = TorchMemory() if memory is None else memory
        self._logger = trt.Logger(trt.Logger.WARNING)
        # The runtime has to outlive the engine, and the engine its context.
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise EngineUnavailable(
                f"tensorrt: version {trt.__version__} cannot load {path}: a plan runs only on the "
                "kind of GPU and the TensorRT version that built it; build it again here"
            )
        inputs, outputs = _tensor_names(trt, self._engine)
        if len(inputs) != 1 or len(outputs) != 1:
            raise WeightsError(f"{path} has inputs {inputs} and outputs {outputs}; one each needed")
        self._input, self._output = inputs[0], outputs[0]
        for tensor in (self._input, self._output):
            if self._engine.get_tensor_dtype(tensor) != trt.float32:
                raise WeightsError(f"{path}: tensor {tensor} is not float32; keep the ends float32")
        least, _, most = self._engine.get_tensor_profile_shape(self._input, 0)
        side = card.preprocess.crop
        if tuple(most)[1:] != (3, side, side):
            raise WeightsError(f"{path} takes {tuple(most)}; its preprocessing gives {side}x{side}")
        self._least, self._most = int(least[0]), int(most[0])
        check_classes(card, int(self._engine.get_tensor_shape(self._output)[1]), str(path))
        self._context = self._engine.create_execution_context()
        super().__init__(
            model=str(path),
            card=card,
            device=self._memory.device,
            versions={"tensorrt": trt.__version__},
        )

    def _run(self, images: np.ndarray) -> np.ndarray:
        parts = [images[at : at + self._most] for at in range(0, len(images), self._most)]
        return np.concatenate([self._run_part(part) for part in parts])

    def _run_part(self, images: np.ndarray) -> np.ndarray:
        count = len(images)
        if count < self._least:
            filler = np.repeat(images[-1:], self._least - count, axis=0)
            images = np.concatenate([images, filler])
        images = np.ascontiguousarray(images)
        context, memory = self._context, self._memory
        context.set_input_shape(self._input, images.shape)
        unresolved = context.infer_shapes()
        if unresolved:
            raise WeightsError(f"{self.model}: shapes of {unresolved} stay unknown")
        context.set_tensor_address(self._input, memory.put(images))
        result = memory.reserve(tuple(context.get_tensor_shape(self._output)))
        context.set_tensor_address(self._output, result)
        if not context.execute_async_v3(memory.stream):
            raise RuntimeError(f"TensorRT failed on {self.model}; its own message is above")
        return memory.fetch()[:count]

    def close(self) -> None:
        """Give the GPU's memory back, the context before the engine before the runtime."""
        self._context = self._engine = self._runtime = None


def _tensor_names(trt: Any, engine: Any) -> tuple[list[str], list[str]]:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    return inputs, [name for name in names if name not in inputs]
