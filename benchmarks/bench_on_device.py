"""Files for phones and boards beside ONNX Runtime on this processor: size, error, time.

python benchmarks/bench_on_device.py [--variants b0 b4]

Random weights, 224 pixels, 1000 classes, batch 1. Errors are of logits on 32 pictures, over the
logits' standard deviation; the same answers are counted on them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from harness import Case, Contender, run

from hgnetv2_pipeline.deployment.choices import FILES
from hgnetv2_pipeline.deployment.engines.ladder import load_engine, model_file
from hgnetv2_pipeline.deployment.export.bundle import write_bundle
from hgnetv2_pipeline.deployment.export.gate import Validation
from hgnetv2_pipeline.deployment.export.on_device import DevicePlan, write_device_files
from hgnetv2_pipeline.deployment.export.precisions import Calibration
from hgnetv2_pipeline.deployment.timing.benchmark import unsettle
from hgnetv2_pipeline.deployment.timing.latency import fixed_images
from hgnetv2_pipeline.models.create import create_model


def pictures(count: int, seed: int) -> np.ndarray:
    """Smooth random pictures, uint8 [count, 224, 224, 3]."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, 3, 9, 9), generator=random)
    fine = torch.nn.functional.interpolate(coarse, (224, 224), mode="bicubic").clamp(0, 1)
    return (255 * fine).byte().permute(0, 2, 3, 1).contiguous().numpy()


def contender(folder: Path, engine: str, precision: str) -> Contender:
    loaded = load_engine(folder, engine, precision=precision, threads=1)
    images = fixed_images(loaded, 1)
    file = model_file(folder / "model.onnx", engine, precision)
    extra = {"MB": round(file.stat().st_size / 1e6, 2)}
    note = file.with_name(file.name.removesuffix(".bin") + ".json")
    if note.is_file():
        gate = json.loads(note.read_text())["gate"]
        extra |= {"largest error": f"{gate['relative_error']:.1e}",
                  "rms error": f"{gate['rms_error']:.1e}",
                  "same of 32": gate["same_answer"]}  # fmt: skip
    return Contender(lambda: loaded.logits(images), precision, ours=engine != "ort", extra=extra)


def cases(given: argparse.Namespace) -> Iterator[Case]:
    for variant in given.variants[: 1 if given.quick else None]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            torch.manual_seed(0)
            network = unsettle(create_model(variant)).eval()
            write_bundle(network, folder, image_size=224)
            for engine in ("executorch", "ncnn"):
                kinds = FILES[engine]
                write_device_files(
                    DevicePlan(engine, list(kinds), 1, dict.fromkeys(kinds, 100.0)),
                    folder / "model.onnx", folder, network,
                    validation=Validation(
                        lambda: [(pictures(32, 0), np.full(32, -1))], "32 pictures"
                    ),
                    calibration=Calibration(lambda: [pictures(16, 1)], "16 others"),
                )  # fmt: skip
            kinds = [("ort", "fp32")] + [(e, p) for e in ("executorch", "ncnn") for p in FILES[e]]
            every = {f"{engine} {kind}": contender(folder, engine, kind) for engine, kind in kinds}
            yield Case(variant, every, base="ort fp32")


if __name__ == "__main__":
    run(
        "on_device", cases, doc=__doc__, seconds=30,
        options=lambda parser: parser.add_argument("--variants", nargs="+", default=["b0", "b4"]),
    )  # fmt: skip
