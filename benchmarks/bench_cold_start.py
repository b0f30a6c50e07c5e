"""From the command to the answer: ``hgnetv2 predict one.jpg`` on an exported network, cold.

python benchmarks/bench_cold_start.py [--variants b0] [--engines ort openvino]

Random weights (they do not change speed), 224 pixels, one JPEG of 500 x 375. A fresh process each
time; the files are in the disk cache.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from harness import Case, Contender, run

from hgnetv2_pipeline.deployment.export.to_onnx import export_onnx
from hgnetv2_pipeline.deployment.timing.cold_start import (
    predict_command,
    time_starts,
    write_photograph,
)
from hgnetv2_pipeline.deployment.timing.stopwatch import Lap
from hgnetv2_pipeline.models.create import create_model


def start(command: list[str]) -> Lap:
    found = time_starts(command, runs=1)
    return Lap(found["median_s"], found["cpu_s"])


def cases(given: argparse.Namespace) -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as name:
        image = write_photograph(Path(name) / "one.jpg")
        for variant in given.variants:
            model = export_onnx(create_model(variant).eval(), Path(name) / f"{variant}.onnx")
            every = {
                engine: Contender(
                    None, "cold start", ours=True,
                    lap=partial(start, predict_command(model, image, engine=engine)),
                )
                for engine in given.engines
            }  # fmt: skip
            yield Case(variant, every, unit="start", clock="wall")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--variants", nargs="+", default=["b0"])
    parser.add_argument("--engines", nargs="+", default=["ort", "openvino"])


if __name__ == "__main__":
    run("cold_start", cases, doc=__doc__, seconds=30, options=options)
