"""What a user waits who types one command: the time from the start of a process to its end."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hgnetv2_pipeline.durable import write_aside
from hgnetv2_pipeline.errors import ParameterError, WeightsError
from hgnetv2_pipeline.progress import track

_MAIN = "from hgnetv2_pipeline.commands.main import main; main()"


def predict_command(model: Path, image: Path, *, engine: str = "auto") -> list[str]:
    """``hgnetv2 predict`` with this Python, whatever is on the PATH."""
    options = ["--model", str(model), "--engine", engine, str(image)]
    return [sys.executable, "-c", _MAIN, "predict", *options]


def time_starts(command: Sequence[str], *, runs: int = 11) -> dict[str, Any]:
    """Run ``command`` ``runs`` times and once before, which warms the disk cache and is dropped.

    Seconds of wall time as ``median_s``, ``min_s`` and ``max_s``; ``cpu_s`` is the median CPU time
    of the processes, all threads and children. ``WeightsError`` with the command's last words when
    it fails.
    """
    if runs < 1:
        raise ParameterError(f"runs={runs}; it must be at least 1")
    wall, cpu = [], []
    for _ in track(range(runs + 1), runs + 1, "cold starts", "start"):
        before, began = _children_seconds(), time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wall.append(time.perf_counter() - began)
        cpu.append(_children_seconds() - before)
        if done.returncode:
            raise WeightsError(f"{' '.join(command[-5:])} failed: {done.stderr.strip()[-300:]}")
    wall, cpu = wall[1:], cpu[1:]
    return {
        "n_starts": runs,
        "median_s": float(np.median(wall)),
        "min_s": min(wall),
        "max_s": max(wall),
        "cpu_s": float(np.median(cpu)),
    }


def write_photograph(path: Path) -> Path:
    """A JPEG of 500 x 375 pixels, smooth as photographs are; the same bytes every time."""
    from PIL import Image

    coarse = np.random.default_rng(0).integers(0, 256, (15, 20, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
    with write_aside(path) as aside:
        picture.save(aside, "JPEG", quality=90)
    return path


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
