"""From the command to the answer: ``hgnetv2 predict one.jpg`` on an exported network, cold.

python benchmarks/bench_cold_start.py [--variants b0] [--engine ort] [--runs 11]

Random weights (they do not change speed), 224 pixels, one JPEG of 500 x 375. A fresh process each
time; the files are in the disk cache. Prints a line a variant, then the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path

from hgnetv2_pipeline.deployment.export.to_onnx import export_onnx
from hgnetv2_pipeline.deployment.timing.cold_start import (
    predict_command,
    time_starts,
    write_photograph,
)
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.processor import describe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=["b0"])
    parser.add_argument("--engine", default="ort")
    parser.add_argument("--runs", type=int, default=11)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        image = write_photograph(Path(name) / "one.jpg")
        for variant in options.variants:
            model = Path(name) / f"{variant}.onnx"
            export_onnx(create_model(variant).eval(), model)
            found = time_starts(
                predict_command(model, image, engine=options.engine), runs=options.runs
            )
            rows.append(
                {"variant": variant, "engine": options.engine, "device": describe(), **found}
            )
            print(
                f"{variant}: median {found['median_s']:.2f} s of {options.runs} starts "
                f"({found['min_s']:.2f} .. {found['max_s']:.2f}), CPU {found['cpu_s']:.2f} s"
            )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
