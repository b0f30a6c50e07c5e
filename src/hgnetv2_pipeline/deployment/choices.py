"""Precisions and engines: what a model may be exported in, and what may run it.

Each set is defined here once, as a type whose members ``get_args`` gives; parameters, tables and
help texts are made of these. No heavy library is imported.
"""

from __future__ import annotations

from typing import Literal, get_args

HalfPrecision = Literal["fp16", "bf16"]
LowerPrecision = Literal[HalfPrecision, "int8"]
"""Judged against fp32 before a file gets its name."""
FilePrecision = Literal["fp32", LowerPrecision]
"""Each is a file of its own in an export folder."""
Precision = Literal["fp32", "tf32", LowerPrecision]
"""What an engine may compute in; tf32 is a GPU's way with the fp32 file."""

PlanTarget = Literal["sm75", "sm80", "sm86", "sm89", "sm120", "sm121", "all"]
"""Compute capabilities that TensorRT for RTX builds plans for, on any machine."""

GpuEngine = Literal["tensorrt", "tensorrt-rtx", "ort-cuda", "ort-tensorrt-rtx"]
DeviceEngine = Literal["executorch", "ncnn"]
"""Each runs files of its own on phones and boards; here, on the processor of this machine."""
CpuEngine = Literal["openvino", "ort", DeviceEngine]
OnnxEngine = Literal[GpuEngine, CpuEngine]
"""Run exported files; the best first."""
TorchMode = Literal["torch-compiled", "torch-cuda-graph"]
"""Each new batch size costs them seconds."""
EngineName = Literal[OnnxEngine, "torch", TorchMode]
"""In the order in which ``auto`` tries them."""

MOST_BATCH = 1024
"""Of a file for one batch size: what is filled up to it must fit into memory."""

PLAN_TARGETS: tuple[PlanTarget, ...] = get_args(PlanTarget)
HALVES: tuple[HalfPrecision, ...] = get_args(HalfPrecision)
LOWER: tuple[LowerPrecision, ...] = get_args(LowerPrecision)
FILE_PRECISIONS: tuple[FilePrecision, ...] = get_args(FilePrecision)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
GPU_ENGINES: tuple[GpuEngine, ...] = get_args(GpuEngine)
DEVICE_ENGINES: tuple[DeviceEngine, ...] = get_args(DeviceEngine)
CPU_ENGINES: tuple[CpuEngine, ...] = get_args(CpuEngine)
TORCH_MODES: tuple[TorchMode, ...] = get_args(TorchMode)
ENGINES: tuple[EngineName, ...] = get_args(EngineName)

NAMED_ONLY: tuple[EngineName, ...] = ("ort-tensorrt-rtx", *DEVICE_ENGINES, *TORCH_MODES)
"""Not taken by ``auto``: they compile when they are opened, or at each new batch size, or are for
other machines; ``auto`` takes the latter for their own files."""

# Which file each engine takes for a precision; what is not here it cannot do.
FILES: dict[str, dict[str, str]] = {
    "tensorrt": {"fp32": "fp32", "tf32": "fp32", "fp16": "fp16", "bf16": "bf16", "int8": "int8"},
    "ort-cuda": {"fp32": "fp32", "tf32": "fp32", "fp16": "fp16"},
    "openvino": {"fp32": "fp32", "bf16": "fp32", "int8": "int8"},
    "ort": {"fp32": "fp32", "fp16": "fp16", "int8": "int8"},
    "torch": dict.fromkeys(("fp32", "tf32", "fp16", "bf16"), ""),
}
FILES |= {"executorch": {"fp32": "fp32", "int8": "int8"}, "ncnn": {"fp32": "fp32", "fp16": "fp16"}}
FILES["tensorrt-rtx"] = FILES["ort-tensorrt-rtx"] = FILES["tensorrt"]
FILES["torch-compiled"] = FILES["torch-cuda-graph"] = FILES["torch"]
ENDINGS: dict[str, str] = {"executorch": ".pte", "ncnn": ".ncnn.bin"}
"""Device engine -> the end of its files' names, ``model.pte`` beside ``model.onnx``."""
MODULES: dict[str, str] = {
    "tensorrt": "with_tensorrt",
    "tensorrt-rtx": "with_tensorrt",
    "ort-cuda": "with_ort",
    "ort-tensorrt-rtx": "with_ort_rtx",
    "openvino": "with_openvino",
    "ort": "with_ort",
    "executorch": "with_executorch",
    "ncnn": "with_ncnn",
    **dict.fromkeys(("torch", "torch-compiled", "torch-cuda-graph"), "with_torch"),
}
"""Engine -> its module in ``engines``, whose ``open_engine`` makes it of a wish."""
NEEDS: dict[str, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "cuda"),
    "tensorrt-rtx": ("tensorrt_rtx_bindings", "cuda"),
    "ort-cuda": ("onnxruntime",),
    "ort-tensorrt-rtx": ("onnxruntime", "onnxruntime_ep_nv_tensorrt_rtx"),
    "openvino": ("openvino",),
    "ort": ("onnxruntime",),
    "executorch": ("executorch", "torch"),
    "ncnn": ("ncnn",),
    **dict.fromkeys(("torch", "torch-compiled", "torch-cuda-graph"), ("torch",)),
}
"""Engine -> the modules of others that it imports, asked for before it is loaded."""
