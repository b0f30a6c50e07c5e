"""Our exported graphs against timm's export of the same networks, one thread, interleaved.

python benchmarks/bench_onnx_against_timm.py [--variants b0 b4] [--batch-sizes 1 16] [--rounds 10]
    [--runs 20] [--warmup 20] [--lab relu]
    [--engines timm-ort ours-ort timm-openvino ours-openvino ours-bf16 timm-bf16 ours-int8]

Random weights, LABs too: a fresh LAB is scale 1 and bias 0, which ONNX Runtime removes as doing
nothing, and a trained one is not. 224 pixels. OpenVINO compiles for the batch size, ours and timm's
alike. The engines of a case are timed in turns, in
each round in another order; a line an engine gives the median over rounds of the CPU time of timm's
export on ONNX Runtime over its own (above 1: faster), and at the end the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.engines.base import Engine
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.export.calibration import activation_ranges
from hgnetv2_pipeline.deployment.export.precisions import save_onnx
from hgnetv2_pipeline.deployment.export.quantize import quantize_graph, scale_groups
from hgnetv2_pipeline.deployment.export.to_onnx import export_onnx
from hgnetv2_pipeline.deployment.timing.benchmark import unsettle
from hgnetv2_pipeline.deployment.timing.latency import compare_latency
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.processor import describe
from hgnetv2_pipeline.weights.build import build_from
from hgnetv2_pipeline.weights.onnx_file import onnx_props

BASE = "timm-ort"


def ours(variant: str, folder: Path) -> Path:
    """Our export, made once; the form of LAB is the folder's name."""
    path = folder / f"{variant}.onnx"
    if not path.exists():
        torch.manual_seed(0)
        export_onnx(unsettle(create_model(variant)).eval(), path, lab=folder.name)
    return path


def theirs(variant: str, folder: Path) -> Path:
    """timm's network through PyTorch's own exporter, made once."""
    path = folder.parent / f"{variant}-timm.onnx"
    if not path.exists():
        stock, _ = build_from(f"timm:hgnetv2_{variant}", num_classes=None, root=folder)
        export_onnx(unsettle(stock).eval(), path)
    return path


def int8(variant: str, folder: Path) -> Path:
    """Our int8 graph without its gate: random weights have no accuracy to lose."""
    import onnx

    source, path = ours(variant, folder), folder / f"{variant}.int8.onnx"
    if not path.exists():
        proto = onnx.load(source)
        images = np.random.default_rng(0).standard_normal((4, 3, 224, 224), np.float32)
        ranges = activation_ranges(
            proto, sorted(scale_groups(proto)), lambda: [images], method="max"
        )
        card = replace(ModelCard.from_props(onnx_props(source), source), precision="int8")
        save_onnx(quantize_graph(proto, ranges), card, path)
    return path


ENGINES: dict[str, tuple[Callable[[str, Path], Path], str, str]] = {
    BASE: (theirs, "ort", "fp32"),
    "ours-ort": (ours, "ort", "fp32"),
    "timm-openvino": (theirs, "openvino", "fp32"),
    "ours-openvino": (ours, "openvino", "fp32"),
    "timm-bf16": (theirs, "openvino", "bf16"),
    "ours-bf16": (ours, "openvino", "bf16"),
    "ours-int8": (int8, "openvino", "int8"),
}


def measure(
    variant: str, batch_size: int, names: list[str], options: argparse.Namespace, folder: Path
) -> dict[str, object]:
    """One case: all engines in turns."""
    loaded: dict[str, Engine] = {}
    for name in names:
        make, engine, precision = ENGINES[name]
        loaded[name] = load_engine(
            make(variant, folder), engine=engine, precision=precision, threads=1,
            batch_size=batch_size,
        )  # fmt: skip
    found = compare_latency(
        loaded, batch_size=batch_size, warmup=options.warmup, rounds=options.rounds,
        runs_per_round=max(3, options.runs // batch_size),
    )  # fmt: skip
    return {
        "variant": variant,
        "batch_size": batch_size,
        "device": loaded[BASE].device,
        "cpu_ms": {row["label"]: row["cpu_ms"] for row in found["rows"]},
        "speedup_cpu": {name: ratio["cpu"] for name, ratio in found["ratios"].items()},
        "speedup_wall": {name: ratio["wall"] for name, ratio in found["ratios"].items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=["b0", "b4"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--runs", type=int, default=20, help="images per engine and round")
    parser.add_argument("--warmup", type=int, default=20, help="calls of an engine beforehand")
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--lab", choices=["relu", "clip", "affine"], default="relu")
    parser.add_argument("--files", type=Path, help="folder to keep the exported files in")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    names = [BASE, *(name for name in options.engines if name != BASE)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.files or Path(temporary)) / options.lab
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            measure(variant, batch_size, names, options, folder)
            for variant in options.variants
            for batch_size in options.batch_sizes
        ]
    for row in rows:
        for name in names:
            print(
                f"{row['variant']} batch {row['batch_size']:>2} {name:14} "
                f"{row['speedup_cpu'][name]:.2f}x  {row['cpu_ms'][name]:.2f} CPU ms"
            )
    print(json.dumps({"processor": describe(), "rows": rows}))


if __name__ == "__main__":
    main()
