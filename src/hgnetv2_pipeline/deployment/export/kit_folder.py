"""The TensorRT kit: a folder that a target machine without PyTorch builds, checks and times.

Which form of LAB TensorRT fuses best is not known before it is timed there, so each travels:
bounds (``clip``), ReLU folded forward and bounds (``relu``), ReLU folded forward and multiply-add
(``affine``). Networks without LAB have one form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hgnetv2_pipeline.deployment.choices import PRECISIONS
from hgnetv2_pipeline.deployment.engines.with_ort import OrtEngine
from hgnetv2_pipeline.deployment.export.bundle import write_labels_and_preprocessing
from hgnetv2_pipeline.deployment.export.gate import MAX_RMS
from hgnetv2_pipeline.deployment.export.onnx_graph import OPSET
from hgnetv2_pipeline.deployment.export.precisions import Calibration, convert_onnx
from hgnetv2_pipeline.deployment.export.to_onnx import export_onnx
from hgnetv2_pipeline.deployment.kit import run
from hgnetv2_pipeline.deployment.kit.plans import TIMING_CACHE, BatchProfile
from hgnetv2_pipeline.deployment.self_test import ALLOWED
from hgnetv2_pipeline.durable import sha256_file, write_json, write_text
from hgnetv2_pipeline.errors import ParameterError, unknown_name
from hgnetv2_pipeline.variants import height_and_width

if TYPE_CHECKING:
    from hgnetv2_pipeline.data.preprocess import Preprocess
    from hgnetv2_pipeline.deployment.export.gate import Validation
    from hgnetv2_pipeline.models.hgnetv2 import Backbone
    from hgnetv2_pipeline.variants import Lab

_SCRIPTS = (
    "run.py", "libraries.py", "plans.py", "plan_runner.py", "timing.py", "cuda_memory.py",
)  # fmt: skip
_REQUIREMENTS = {
    "requirements.txt": ["tensorrt>=10.3,<12"],
    "requirements-rtx.txt": [
        "tensorrt-rtx-cu12-libs>=1.7,<2", "tensorrt-rtx-cu12-bindings>=1.7,<2",
    ],
}  # fmt: skip
_PACKAGE = "hgnetv2_pipeline.deployment.kit."


@dataclass(frozen=True)
class KitPlan:
    """What goes into a kit: forms of LAB, precisions, batch sizes to build for and to time.

    ``images``: how many images are packed at most.
    """

    labs: Sequence[Lab]
    precisions: Sequence[str]
    profile: BatchProfile
    batch_sizes: Sequence[int]
    images: int

    def __post_init__(self) -> None:
        for precision in self.precisions:
            if precision not in PRECISIONS:
                raise unknown_name("precision", precision, PRECISIONS, "export.kit.precisions")
        beyond = [n for n in self.batch_sizes if not self.profile.least <= n <= self.profile.most]
        if beyond:
            raise ParameterError(
                f"batch sizes {beyond} are outside the profile {self.profile.least}.."
                f"{self.profile.most} (export.kit.batch_sizes, export.tensorrt)"
            )


def write_kit(
    model: Backbone,
    folder: Path,
    plan: KitPlan,
    *,
    model_name: str,
    class_names: Sequence[str],
    preprocess: Preprocess,
    validation: Validation,
    packed: Validation,
    calibration: Calibration,
    metadata: Mapping[str, str],
    opset: int = OPSET,
    max_drop: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Write the kit into ``folder`` and return what its kit.json says.

    Every graph has passed what ``export_onnx`` and ``convert_onnx`` check, the latter on
    ``validation``. The packed images are the first of ``packed``, with the fp32 logits that ONNX
    Runtime gives for them.
    """
    if metadata.get("task") == "multi_label":
        raise ParameterError(
            "the TensorRT kit judges its plans by top-1, which images of several labels have not: "
            "export.target=onnx with export.precisions=fp16 is judged by mAP, and hgnetv2 predict "
            "--engine tensorrt runs it"
        )
    folder = Path(folder)

    def export(path: Path, lab: Lab) -> None:
        export_onnx(
            model, path, preprocess.crop, class_names, "fp32", preprocess, metadata,
            opset=opset, lab=lab,
        )  # fmt: skip

    def convert(fp32: Path, path: Path, precision: str) -> None:
        convert_onnx(
            fp32, path, precision, validation=validation, calibration=calibration,
            max_drop=(max_drop or {}).get(precision),
        )  # fmt: skip

    graphs = list(_graphs(folder, plan, has_lab=_has_lab(model), export=export, convert=convert))
    first = folder / graphs[0]["file"]
    engine = OrtEngine(first)
    count = _pack(folder / run.VALIDATION, engine, packed, plan.images)
    write_labels_and_preprocessing(folder, engine.card)
    facts = {
        "model": model_name,
        "source_sha256": engine.card.source_sha256,
        "variant": engine.card.variant,
        "preprocess": preprocess.to_dict(),
        "profile": asdict(plan.profile),
        "batch_sizes": list(plan.batch_sizes),
        "packed": count,
        "graphs": graphs,
    }
    write_json(folder / run.KIT, facts)
    for name in _SCRIPTS:
        source = (Path(run.__file__).parent / name).read_text(encoding="utf-8")
        # In the kit the modules are side by side.
        write_text(folder / name, source.replace(_PACKAGE, ""))
    for name, packages in _REQUIREMENTS.items():
        lines = ["numpy", "cuda-bindings>=12.8", *packages]
        write_text(folder / name, "".join(f"{line}\n" for line in lines))
    write_text(folder / "README.md", _readme(facts))
    return facts


def _has_lab(model: Backbone) -> bool:
    from hgnetv2_pipeline.models.hgnetv2 import LearnableAffine

    return any(isinstance(module, LearnableAffine) for module in model.modules())


def _graphs(
    folder: Path,
    plan: KitPlan,
    *,
    has_lab: bool,
    export: Callable[[Path, Lab], None],
    convert: Callable[[Path, Path, str], None],
) -> Iterator[dict[str, Any]]:
    """Write the graph of every form of LAB in every precision; what kit.json says of each."""
    labs: list[Lab] = ["clip", *(lab for lab in plan.labs if lab != "clip" and has_lab)]
    for lab in labs:
        fp32 = folder / "graphs" / f"{lab}.fp32.onnx"
        export(fp32, lab)
        for precision in plan.precisions:
            path = fp32
            if precision not in ("fp32", "tf32"):
                path = fp32.with_name(f"{lab}.{precision}.onnx")
                convert(fp32, path, precision)
            yield {
                "name": f"{lab}-{precision}",
                "lab": lab if has_lab else "none",
                "precision": precision,
                "file": path.relative_to(folder).as_posix(),
                "sha256": sha256_file(path),
                # Beyond it the target computes this graph wrongly, and no time of it counts.
                "max_rms_error": MAX_RMS.get(precision, ALLOWED.get(precision)),
            }


def _pack(path: Path, engine: OrtEngine, validation: Validation, count: int) -> int:
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for pixels, truth in validation.batches():
        images.append(pixels)
        labels.append(truth)
        if sum(map(len, labels)) >= count:
            break
    packed = np.concatenate(images)[:count]
    logits = [
        engine.logits(engine.preprocess.normalize(packed[at : at + 16]))
        for at in range(0, len(packed), 16)
    ]
    with path.open("wb") as file:
        np.savez_compressed(
            file, images=packed, labels=np.concatenate(labels)[:count],
            logits=np.concatenate(logits),
        )  # fmt: skip
    return len(packed)


def trtexec_lines(facts: Mapping[str, Any]) -> list[str]:
    """One trtexec command a graph: the same network and profile, timed by NVIDIA's own tool."""
    (height, width), profile = height_and_width(facts["preprocess"]["crop"]), facts["profile"]
    shapes = {
        f"--{option}Shapes": f"images:{profile[size]}x3x{height}x{width}"
        for option, size in (("min", "least"), ("opt", "best"), ("max", "most"))
    }
    lines = []
    for graph in facts["graphs"]:
        words = [
            f"trtexec --onnx={graph['file']} --stronglyTyped",
            *(f"{option}={value}" for option, value in shapes.items()),
            f"--shapes=images:1x3x{height}x{width}",
            *(["--noTF32"] if graph["precision"] == "fp32" else []),
            f"--timingCacheFile=plans/{TIMING_CACHE}",
            f"--saveEngine=plans/trtexec-{graph['name']}.plan",
            "--useCudaGraph --useSpinWait --warmUp=500 --iterations=2000 --duration=0",
        ]
        lines.append(" ".join(words))
    return lines


def _readme(facts: Mapping[str, Any]) -> str:
    lines = "\n".join(trtexec_lines(facts))
    return f"""# TensorRT kit of {facts["model"]}

Not run yet: no NVIDIA GPU was at hand where this kit was made. On the target machine (Python 3.11
or later):

    pip install -r requirements.txt         TensorRT, for any NVIDIA GPU: about 2 GB
    pip install -r requirements-rtx.txt     TensorRT for RTX, for RTX GPUs: 90 MB; or both
    python run.py

(A driver of CUDA 12 needs `tensorrt-cu12` and `cuda-bindings` 12 in place of the newest. TensorRT
for RTX is `tensorrt-rtx-cu13-libs` and `tensorrt-rtx-cu13-bindings` for CUDA 13 and on ARM.) With
each TensorRT it builds every graph of `kit.json` into `plans/`, lets it answer the
{facts["packed"]} images packed in `validation.npz`, compares accuracy, top-5 and logits with the
stored fp32 ones, times batches of {", ".join(map(str, facts["batch_sizes"]))} (100 runs dropped,
2000 timed) and writes a file into `results/` that says which library built and ran what. Copy it
into `results/` of the kit where this one came from; the report then shows it.

The same graphs by NVIDIA's own tool (`mkdir -p plans` first; version 11 is always strongly typed
and takes `--stronglyTyped` for granted):

```
{lines}
```
"""
