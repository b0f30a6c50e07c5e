"""What TensorRT for RTX makes of every network without a GPU: layers, seconds and size of a plan.

python benchmarks/bench_tensorrt_rtx.py [b0 b4 ...]

Weights are drawn (seed 0), 1,000 classes, 224 pixels, batches of 1 to 16, compute capability 8.0
and later in one plan; B0 for each capability by itself besides. Prints the tables of
docs/results/tensorrt.md.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch

from hgnetv2_pipeline.deployment.choices import FILE_PRECISIONS
from hgnetv2_pipeline.deployment.export.calibration import activation_ranges
from hgnetv2_pipeline.deployment.export.half import to_half
from hgnetv2_pipeline.deployment.export.hgnet_graph import hgnet_to_onnx
from hgnetv2_pipeline.deployment.export.quantize import quantize_graph, scale_groups
from hgnetv2_pipeline.deployment.kit.libraries import TENSORRT_RTX, listener
from hgnetv2_pipeline.deployment.kit.plans import (
    AMPERE_ON,
    BatchProfile,
    PlanSpec,
    build_plan,
    capabilities_of,
    parse_network,
)
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.processor import cpu_name
from hgnetv2_pipeline.variants import HGNET_SIZES, VARIANTS

SIDE = 224


def files(variant: str) -> dict[str, bytes]:
    """The network's file in each precision."""
    torch.manual_seed(0)
    exact = hgnet_to_onnx(create_model(variant, 1000).eval(), SIDE)
    image = np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE), np.float32)
    ranges = activation_ranges(exact, sorted(scale_groups(exact)), lambda: [image], method="max")
    protos = {"fp32": exact, "int8": quantize_graph(exact, ranges)}
    protos |= {name: to_half(exact, name) for name in ("fp16", "bf16")}
    return {name: protos[name].SerializeToString() for name in FILE_PRECISIONS}


def build(content: bytes, precision: str, gpu: str) -> tuple[int, float, float, int]:
    """Layers as parsed, wall and processor seconds of parsing and building, bytes of the plan."""
    trt = TENSORRT_RTX.load()
    logger, _ = listener(trt)
    network = parse_network(trt, trt.Builder(logger), content, logger, TENSORRT_RTX.title)
    wall, cpu = time.perf_counter(), time.process_time()
    built = build_plan(content, PlanSpec(TENSORRT_RTX, precision, BatchProfile(), gpu))
    assert not built.warnings, built.warnings
    return (
        network.num_layers, time.perf_counter() - wall, time.process_time() - cpu, len(built.plan),
    )  # fmt: skip


def main(names: list[str]) -> None:
    """Print both tables."""
    version = TENSORRT_RTX.load().__version__
    print(f"TensorRT for RTX {version} on {cpu_name()}, {time.strftime('%Y-%m-%d', time.gmtime())}")
    print("\n| network | precision | layers | s | CPU s | MB |\n|---|---|---|---|---|---|")
    for variant in names:
        for precision, content in files(variant).items():
            layers, wall, cpu, size = build(content, precision, AMPERE_ON)
            row = (variant, precision, layers, f"{wall:.1f}", f"{cpu:.1f}", f"{size / 1e6:.1f}")
            print("| " + " | ".join(map(str, row)) + " |", flush=True)
    print("\n| b0 for | " + " | ".join(f"{name} MB" for name in FILE_PRECISIONS) + " |")
    print("|---|" + "---|" * len(FILE_PRECISIONS))
    contents = files("b0")
    for gpu in (*capabilities_of("fp16"), AMPERE_ON):
        cells = []
        for precision, content in contents.items():
            known = gpu == AMPERE_ON or gpu in capabilities_of(precision)
            cells.append(f"{build(content, precision, gpu)[3] / 1e6:.1f}" if known else "-")
        print(f"| {gpu} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or [*VARIANTS, *HGNET_SIZES])
