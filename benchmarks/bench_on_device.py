"""Files for phones and boards beside ONNX Runtime on this processor: size, error, time.

    python benchmarks/bench_on_device.py --variants b0,b4 --rounds 10

Random weights, 224 pixels, 1000 classes, batch 1, one thread, all in turns. Errors are of logits on
32 pictures, over the logits' standard deviation; the same answers are counted on them.
Prints a table and JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from hgnetv2_pipeline.deployment.choices import FILES
from hgnetv2_pipeline.deployment.engines.ladder import load_engine, model_file
from hgnetv2_pipeline.deployment.export.bundle import write_bundle
from hgnetv2_pipeline.deployment.export.gate import Validation
from hgnetv2_pipeline.deployment.export.on_device import DevicePlan, write_device_files
from hgnetv2_pipeline.deployment.export.precisions import Calibration
from hgnetv2_pipeline.deployment.timing.benchmark import unsettle
from hgnetv2_pipeline.deployment.timing.latency import compare_latency
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.processor import describe


def pictures(count: int, seed: int) -> np.ndarray:
    """Smooth random pictures, uint8 [count, 224, 224, 3]."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, 3, 9, 9), generator=random)
    fine = torch.nn.functional.interpolate(coarse, (224, 224), mode="bicubic").clamp(0, 1)
    return (255 * fine).byte().permute(0, 2, 3, 1).contiguous().numpy()


def measure(variant: str, rounds: int, folder: Path) -> list[dict[str, object]]:
    """A row for each file of ``variant``, the first ONNX Runtime's."""
    torch.manual_seed(0)
    network = unsettle(create_model(variant)).eval()
    write_bundle(network, folder, image_size=224)
    pixels = pictures(32, 0)
    for engine in ("executorch", "ncnn"):
        write_device_files(
            DevicePlan(engine, list(FILES[engine]), 1, dict.fromkeys(FILES[engine], 100.0)),
            folder / "model.onnx", folder, network,
            validation=Validation(lambda: [(pixels, np.full(32, -1))], "32 pictures"),
            calibration=Calibration(lambda: [pictures(16, 1)], "16 others"),
        )  # fmt: skip
    cases = [("ort", "fp32")] + [(e, p) for e in ("executorch", "ncnn") for p in FILES[e]]
    engines = {
        f"{engine} {precision}": load_engine(folder, engine, precision=precision, threads=1)
        for engine, precision in cases
    }
    timed = compare_latency(engines, rounds=rounds, runs_per_round=20)
    rows = []
    for (engine, precision), row in zip(cases, timed["rows"], strict=True):
        file = model_file(folder / "model.onnx", engine, precision)
        note = file.with_name(file.name.removesuffix(".bin") + ".json")
        gate = json.loads(note.read_text())["gate"] if note.is_file() else {}
        rows.append(
            {
                "network": variant, "engine": engine, "precision": precision,
                "MB": file.stat().st_size / 1e6, "largest error": gate.get("relative_error", 0.0),
                "rms error": gate.get("rms_error", 0.0), "same of 32": gate.get("same_answer", 32),
                "CPU ms": row["cpu_ms"], "times as fast": timed["ratios"][row["label"]]["cpu"],
            }
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", default="b0,b4")
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for variant in given.variants.split(","):
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(variant, given.rounds, Path(folder))
    print(describe())
    print("| " + " | ".join(rows[0]) + " |")
    for row in rows:
        cells = (f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row.values())
        print("| " + " | ".join(cells) + " |")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
