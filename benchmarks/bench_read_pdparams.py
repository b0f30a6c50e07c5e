"""Reading a B6-sized .pdparams without running it, against pickle.load of the same file.

python benchmarks/bench_read_pdparams.py [--variant b6] [--protocols 2 3 4] [--rounds 7]

Random weights, one process, the two readers in turn, each file in the page cache. Prints a line a
protocol with medians over rounds of CPU time and of the ratio within a round, and the peak of
memory that Python allocated over the size of the tensors (measured in a read of its own); then the
same as JSON. pickle.load runs whatever a file asks for: it is here because this file is our own.
"""

from __future__ import annotations

import argparse
import json
import pickle
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.weights.load import paddle_shapes
from hgnetv2_pipeline.weights.paddle.pdparams import read_pdparams
from hgnetv2_pipeline.weights.paddle.writer import write_pdparams


def c_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)  # noqa: S301 - a file that this benchmark has written


def cpu_seconds(read: Callable[[Path], Any], path: Path) -> float:
    began = time.process_time()
    read(path)
    return time.process_time() - began


def peak_bytes(read: Callable[[Path], Any], path: Path) -> int:
    tracemalloc.start()
    read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def measure(
    path: Path, tensors: dict[str, np.ndarray], protocol: int, rounds: int
) -> dict[str, Any]:
    write_pdparams(path, tensors, protocol)
    size = sum(value.nbytes for value in tensors.values())
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(rounds + 1):
        first, second = cpu_seconds(read_pdparams, path), cpu_seconds(c_pickle, path)
        if number:  # the first round warms the cache
            ours.append(first)
            theirs.append(second)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "protocol": protocol,
        "file_mb": round(path.stat().st_size / 1e6, 1),
        "ours_cpu_s": round(statistics.median(ours), 4),
        "pickle_cpu_s": round(statistics.median(theirs), 4),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "ours_peak": round(peak_bytes(read_pdparams, path) / size, 3),
        "pickle_peak": round(peak_bytes(c_pickle, path) / size, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", default="b6")
    parser.add_argument("--protocols", nargs="+", type=int, default=[2, 3, 4])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with torch.device("meta"):
        shapes = paddle_shapes(create_model(options.variant))
    rng = np.random.default_rng(0)
    tensors = {key: rng.random(shape, dtype=np.float32) for key, shape in shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w.pdparams"
        rows = [measure(path, tensors, p, options.rounds) for p in options.protocols]
    for row in rows:
        print(
            f"protocol {row['protocol']}, {row['file_mb']} MB: CPU {row['ours_cpu_s']} s, "
            f"pickle.load {row['pickle_cpu_s']} s, ratio {row['ratio']}; "
            f"peak {row['ours_peak']} x the tensors, pickle.load {row['pickle_peak']} x"
        )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
