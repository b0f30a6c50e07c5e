"""ONNX Runtime with NVIDIA's plugin of TensorRT for RTX (``ort-tensorrt-rtx``), where it loads.

The plugin brings the library with it and builds and finishes its plans when a session is opened.
Not run: its library loads only beside an NVIDIA driver. Version 0.5 of the plugin for Linux links
to ``libcudart.so.12`` and brings it under another name, so it is loaded beforehand.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.deployment.engines.base import (
    Engine,
    EngineState,
    EngineUnavailable,
    Wish,
    need_onnx,
)
from hgnetv2_pipeline.deployment.engines.with_ort import OrtCudaEngine, state_of
from hgnetv2_pipeline.deployment.kit.cuda_memory import find_driver
from hgnetv2_pipeline.deployment.kit.libraries import PlanError
from hgnetv2_pipeline.foreign import reason

if TYPE_CHECKING:
    import onnxruntime


class OrtRtxEngine(OrtCudaEngine):
    """ONNX Runtime, its graphs run by TensorRT for RTX."""

    name = "ort-tensorrt-rtx"
    _provider = "NvTensorRTRTXExecutionProvider"

    @classmethod
    def need_provider(cls) -> None:
        """Raise EngineUnavailable unless the plugin loads and finds a GPU."""
        try:
            find_driver()
        except PlanError as error:
            raise EngineUnavailable(f"{cls.name}: {error}") from error
        if not _devices(cls._provider):
            raise EngineUnavailable(
                f"{cls.name}: the plugin finds no RTX GPU of compute capability 8.6 or later"
            )

    def _prepare(self, options: onnxruntime.SessionOptions) -> None:
        options.add_provider_for_devices(_devices(self._provider), {})

    def _providers(self) -> None:
        """None by name: the devices say it."""


@lru_cache
def _devices(provider: str) -> list[Any]:
    """The GPUs that the plugin offers; it is loaded once in a process."""
    import onnxruntime
    import onnxruntime_ep_nv_tensorrt_rtx as plugin

    library = Path(plugin.get_library_path())
    try:
        for runtime in sorted(library.parent.glob("libcudart.so.*")):
            ctypes.CDLL(str(runtime))
        onnxruntime.register_execution_provider_library(provider, str(library))
    except Exception as error:  # the binding's own exception types have no common base
        raise EngineUnavailable(f"ort-tensorrt-rtx: {reason(error)}") from error
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider]


def find_engine(name: str) -> EngineState:
    """ONNX Runtime, and whether the plugin finds a GPU."""
    return state_of(name, OrtRtxEngine)


def open_engine(name: str, wish: Wish) -> Engine:
    """ONNX Runtime on the ONNX file of ``wish``, by TensorRT for RTX."""
    return OrtRtxEngine(
        need_onnx(wish, name),
        threads=wish.threads,
        preprocess=wish.preprocess,
        classes=wish.classes,
        tf32=wish.precision == "tf32",
    )
