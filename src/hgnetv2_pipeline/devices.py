"""Where PyTorch computes: the processor, a GPU, or one GPU of several."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hgnetv2_pipeline.errors import ParameterError

if TYPE_CHECKING:
    import torch

_DRIVERS = ("nvidia*", "nvhost*", "nvmap", "kfd", "dxg")
"""Below /dev, where Linux has a driver: NVIDIA's, Jetson's, ROCm's, that of WSL."""


def count_gpus() -> int:
    """GPUs that PyTorch sees. Torch, which takes a second to import, is asked only where Linux has
    a driver, or on another system.
    """
    if sys.platform == "linux" and not any(any(Path("/dev").glob(name)) for name in _DRIVERS):
        return 0
    import torch

    return int(torch.cuda.device_count())


def found_device() -> str:
    """What ``auto`` means here: cuda where PyTorch sees a GPU, else cpu."""
    return "cuda" if count_gpus() else "cpu"


def known_device(name: str) -> str:
    """``name`` with ``auto`` resolved; ``ParameterError`` for a GPU that is not there."""
    if name == "auto":
        return found_device()
    choose_device(name)
    return name


def own_gpu(name: str, local_rank: int) -> str:
    """``cuda`` as the GPU of one of several processes on a machine; other names as they are."""
    if name != "cuda":
        return name
    return f"cuda:{local_rank % max(1, count_gpus())}"


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of ``name``: cpu, cuda, cuda:N, or auto (a GPU if there is one)."""
    import torch

    if name == "auto":
        name = found_device()
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ParameterError(
            f"unknown device {name!r}; choose auto, cpu, cuda or cuda:N (--params device=...)"
        ) from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ParameterError(
                f"device {name!r} is asked for, but torch sees no GPU; use device=cpu or auto"
            )
        if device.index is None:
            device = torch.device("cuda", local_rank)
        if (count := torch.cuda.device_count()) <= (device.index or 0):
            raise ParameterError(
                f"device {name!r} is to be GPU {device.index} of this machine, which has {count}, "
                "counted from 0; choose another (--params device=...), or fewer processes "
                "(distributed.nproc_per_node)"
            )
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise ParameterError(f"device {name!r} is not supported; choose auto, cpu or cuda")
    return device
