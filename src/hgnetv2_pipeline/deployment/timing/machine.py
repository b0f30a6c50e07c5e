"""What measured: processor, GPU, driver and clocks, as text for the record."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from hgnetv2_pipeline.processor import cpu_field, describe

_NVIDIA = (
    "name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit",
    "temperature.gpu",
)  # fmt: skip
_ENGINES = (
    "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx-cu12-bindings",
    "tensorrt-rtx-cu13-bindings", "onnxruntime-ep-nv-tensorrt-rtx-cu12", "executorch", "ncnn",
)  # fmt: skip
"""Distributions whose version decides how fast a model runs."""


def clocks(place: str) -> dict[str, str]:
    """For ``cuda`` driver and clocks of the first visible GPU, by nvidia-smi; else the CPU's clock.

    Empty where nothing tells them. Clocks move with load and heat: ask right after the work.
    """
    if place != "cuda":
        found = cpu_field("cpu MHz")
        return {"cpu_mhz": found} if found else {}
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    # nvidia-smi numbers all GPUs of the machine, whatever this process sees of them.
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"
    asked = [program, f"--query-gpu={','.join(_NVIDIA)}", "--format=csv,noheader", f"--id={first}"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(_NVIDIA, values, strict=True)) if len(values) == len(_NVIDIA) else {}


@cache
def what_runs_here() -> dict[str, str]:
    """Processor with its instruction sets, GPU and versions of the engines.

    With another of them a latency is another.
    """
    found = {"cpu": describe(), "gpu": clocks("cuda").get("name", "none")}
    for package in _ENGINES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
