"""The ONNX files that NVIDIA's parser and builder are shown, and their layers on record.

``python rtx_cases.py`` writes the record, tensorrt_rtx_layers.txt, anew: a line for each network,
form of LAB and precision with the number of its layers of each kind, operation and precision.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from deployment_cases import formula_model

from hgnetv2_pipeline.deployment.choices import FILE_PRECISIONS
from hgnetv2_pipeline.deployment.export.calibration import activation_ranges
from hgnetv2_pipeline.deployment.export.half import to_half
from hgnetv2_pipeline.deployment.export.hgnet_graph import hgnet_to_onnx
from hgnetv2_pipeline.deployment.export.quantize import quantize_graph, scale_groups
from hgnetv2_pipeline.variants import HGNET_SIZES, VARIANTS, Lab

SIDE = 64
RECORD = Path(__file__).with_name("tensorrt_rtx_layers.txt")
LIMIT = 1800.0  # seconds, which only a hang reaches


@dataclass(frozen=True)
class Case:
    """One network in one form of LAB (networks without it have one form)."""

    variant: str
    lab: Lab = "relu"

    def file(self, folder: Path, precision: str) -> Path:
        return folder / f"{self.variant}.{self.lab}.{precision}.onnx"


FIRST = (Case("b0"), Case("b4"))
ALL = (
    *(
        Case(name, lab)
        for name, variant in VARIANTS.items()
        for lab in (get_args(Lab) if variant.lab else ("relu",))
    ),
    *map(Case, HGNET_SIZES),
)


def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((8, 3, SIDE, SIDE), np.float32)


def write_case(case: Case, folder: Path) -> None:
    """The file of each precision, as the exporter's own functions make it, without its gates."""
    exact = hgnet_to_onnx(formula_model(case.variant), SIDE, lab=case.lab)
    ranges = activation_ranges(exact, sorted(scale_groups(exact)), lambda: [images()], method="max")
    protos = {
        "fp32": exact,
        "fp16": to_half(exact, "fp16"),
        "bf16": to_half(exact, "bf16"),
        "int8": quantize_graph(exact, ranges),
    }
    assert set(protos) == set(FILE_PRECISIONS)
    for precision, proto in protos.items():
        case.file(folder, precision).write_bytes(proto.SerializeToString())


def job(file: Path, precision: str, **more: Any) -> dict[str, Any]:
    return {"file": str(file), "precision": precision, **more}


def let_work(jobs: Sequence[dict[str, Any]], folder: Path) -> tuple[dict[str, Any], str]:
    """What the parser and builder make of each file, by its name, and what they print."""
    np.save(folder / "images.npy", images())
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("rtx_process.py")), folder / "jobs.json"],
        capture_output=True, text=True, check=False, timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = [Path(each["file"]) for each in jobs]
    found = {file.name: json.loads(file.with_suffix(".found.json").read_text()) for file in files}
    return found, done.stdout + done.stderr


def line(name: str, table: dict[str, int]) -> str:
    """A file's layers as a line of the record."""
    return f"{name}: " + ", ".join(f"{count} {kind}" for kind, count in table.items())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        jobs = []
        for case in ALL:
            write_case(case, Path(name))
            jobs += [job(case.file(Path(name), each), each) for each in FILE_PRECISIONS]
        found, _ = let_work(jobs, Path(name))
    RECORD.write_text("".join(f"{line(file, each['table'])}\n" for file, each in found.items()))
