"""Our exported graph against timm's export of the same network, on ONNX Runtime, interleaved.

python benchmarks/bench_onnx_against_timm.py [--variants b0 b4] [--batch-sizes 1 16] [--rounds 10]

One thread, random weights (they do not change speed), 224 pixels. Prints a line a case with the
median over rounds of CPU time of timm's export over ours (above 1: ours is faster), then the same
as JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch  # noqa: E402

from hgnetv2_pipeline.deployment import compare_latency, export_onnx, load_engine  # noqa: E402
from hgnetv2_pipeline.models import build_from, create_model  # noqa: E402


def measure(variant: str, batch_size: int, rounds: int, folder: Path) -> dict[str, object]:
    """One case: both files, interleaved."""
    torch.manual_seed(0)
    ours, theirs = folder / f"{variant}.onnx", folder / f"{variant}-timm.onnx"
    if not ours.exists():
        export_onnx(create_model(variant).eval(), ours)
        stock, _ = build_from(f"timm:hgnetv2_{variant}", num_classes=None, root=folder)
        export_onnx(stock.eval(), theirs)
    engines = {
        "timm": load_engine(theirs, engine="ort", threads=1),
        "ours": load_engine(ours, engine="ort", threads=1),
    }
    runs = max(3, 20 // batch_size)
    found = compare_latency(engines, batch_size=batch_size, rounds=rounds, runs_per_round=runs)
    return {
        "variant": variant,
        "batch_size": batch_size,
        "cpu_ms": {row["label"]: row["cpu_ms"] for row in found["rows"]},
        "speedup_cpu": found["ratios"]["ours"]["cpu"],
        "speedup_wall": found["ratios"]["ours"]["wall"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=["b0", "b4"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as name:
        rows = [
            measure(variant, batch_size, options.rounds, Path(name))
            for variant in options.variants
            for batch_size in options.batch_sizes
        ]
    for row in rows:
        print(
            f"{row['variant']} batch {row['batch_size']:>2}: {row['speedup_cpu']:.2f}x "
            f"(CPU ms {row['cpu_ms']})"
        )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
