"""Reading a B6-sized .pdparams without running it, against pickle.load of the same file.

python benchmarks/bench_read_pdparams.py [--variant b6] [--protocols 2 3 4]

Random weights, each file in the page cache; besides, the peak of memory that Python allocated over
the size of the tensors (in a read of its own). pickle.load runs whatever a file asks for: it is
here because this file is our own.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Case, Contender, run

from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.weights.load import paddle_shapes
from hgnetv2_pipeline.weights.paddle.pdparams import read_pdparams
from hgnetv2_pipeline.weights.paddle.writer import write_pdparams


def c_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)  # noqa: S301 - a file that this benchmark has written


def peak_bytes(read: Callable[[Path], Any], path: Path) -> int:
    tracemalloc.start()
    read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def cases(given: argparse.Namespace) -> Iterator[Case]:
    with torch.device("meta"):
        shapes = paddle_shapes(create_model(given.variant))
    rng = np.random.default_rng(0)
    tensors = {key: rng.random(shape, dtype=np.float32) for key, shape in shapes.items()}
    size = sum(value.nbytes for value in tensors.values())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w.pdparams"
        for protocol in given.protocols[-1:] if given.quick else given.protocols:
            write_pdparams(path, tensors, protocol)
            every = {
                name: Contender(
                    lambda read=read: read(path), "reading", ours=read is read_pdparams,
                    extra={"peak over the tensors": round(peak_bytes(read, path) / size, 2)},
                )
                for name, read in (("pickle.load", c_pickle), ("read_pdparams", read_pdparams))
            }  # fmt: skip
            yield Case(
                f"{given.variant}, protocol {protocol}", every, unit="file",
                note=f"{path.stat().st_size / 1e6:.1f} MB",
            )  # fmt: skip


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--variant", default="b6")
    parser.add_argument("--protocols", nargs="+", type=int, default=[2, 3, 4])


if __name__ == "__main__":
    run("read_pdparams", cases, doc=__doc__, seconds=10, options=options)
