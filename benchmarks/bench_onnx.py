"""Our exported graphs against timm's export of the same networks, and against Paddle, in turns.

python benchmarks/bench_onnx.py [--variants b0 b4] [--batch-sizes 1 16] [--threads 1]
    [--precisions fp32 bf16 int8] [--lab relu] [--paddle-python ENV/bin/python]

Random weights, LABs too: a fresh LAB is scale 1 and bias 0, which ONNX Runtime removes as doing
nothing, and a trained one is not. 224 pixels. ONNX Runtime and OpenVINO, ours and timm's with the
same options: OpenVINO is compiled for the batch size with its latency hint. bf16 is OpenVINO's.
int8: ours by this package's export, timm's by ONNX Runtime's own static quantiser. Both files carry
the answers of their float32 network to two images: an engine whose logits are further off than int8
explains is left out. Each is compared at its precision. On several threads the wall time decides.

Paddle Inference (oneDNN, fp32) runs where an environment has it (``python -m venv ENV &&
ENV/bin/pip install paddlepaddle setuptools``): ``paddle_contender.py`` builds the network in
``paddle.nn`` from our weights, and its logits must be ours.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from harness import Case, Contender, Elsewhere, run

from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.engines.base import Engine, EngineUnavailable
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.export.calibration import activation_ranges
from hgnetv2_pipeline.deployment.export.precisions import save_onnx
from hgnetv2_pipeline.deployment.export.quantize import quantize_graph, scale_groups
from hgnetv2_pipeline.deployment.export.to_onnx import export_onnx
from hgnetv2_pipeline.deployment.timing.benchmark import unsettle
from hgnetv2_pipeline.deployment.timing.latency import BYTES
from hgnetv2_pipeline.models.cost import measure_cost
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.variants import VARIANTS
from hgnetv2_pipeline.weights.build import build_from
from hgnetv2_pipeline.weights.onnx_file import onnx_props
from hgnetv2_pipeline.weights.paddle.writer import write_pdparams
from hgnetv2_pipeline.weights.writing import to_paddle

Make = Callable[[str, Path], Path]


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 224, 224), np.float32)


def ours(variant: str, folder: Path) -> Path:
    """Our export; the form of LAB is the folder's name."""
    torch.manual_seed(0)
    network = unsettle(create_model(variant)).eval()
    return export_onnx(network, folder / f"{variant}.onnx", lab=folder.name)


def theirs(variant: str, folder: Path) -> Path:
    """timm's network through PyTorch's own exporter."""
    torch.manual_seed(0)
    stock, _ = build_from(f"timm:hgnetv2_{variant}", num_classes=None, root=folder)
    return export_onnx(unsettle(stock).eval(), folder / f"{variant}-timm.onnx")


def our_int8(variant: str, folder: Path) -> Path:
    """Our int8 graph without its gate: random weights have no accuracy to lose."""
    import onnx

    source = made(ours, variant, folder)
    proto = onnx.load(source)
    ranges = activation_ranges(
        proto, sorted(scale_groups(proto)), lambda: [images(4)], method="max"
    )
    path = folder / f"{variant}.int8.onnx"
    save_onnx(quantize_graph(proto, ranges), int8_card(source), path)
    return path


def their_int8(variant: str, folder: Path) -> Path:
    """timm's graph by ONNX Runtime's quantiser: Q/DQ pairs, a scale an output channel."""
    import onnx
    from onnxruntime import quantization

    class Images(quantization.CalibrationDataReader):
        rest = iter([{"images": images(4)}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rest, None)

    source, path = made(theirs, variant, folder), folder / f"{variant}-timm.int8.onnx"
    ready = folder / f"{variant}-timm.ready.onnx"
    quantization.shape_inference.quant_pre_process(str(source), str(ready))
    Images.rest = iter([{onnx.load(ready).graph.input[0].name: images(4)}])
    quantization.quantize_static(
        str(ready), str(path), Images(), per_channel=True,
        activation_type=quantization.QuantType.QInt8, weight_type=quantization.QuantType.QInt8,
        extra_options={"ActivationSymmetric": True},
    )  # fmt: skip
    save_onnx(onnx.load(path), int8_card(source), path)
    return path


def int8_card(source: Path) -> ModelCard:
    return replace(ModelCard.from_props(onnx_props(source), source), precision="int8")


_MADE: dict[tuple[Make, str, Path], Path] = {}


def made(make: Make, variant: str, folder: Path) -> Path:
    """The file, made once."""
    key = make, variant, folder
    if key not in _MADE:
        _MADE[key] = make(variant, folder)
    return _MADE[key]


# Name: maker, engine, precision.
CONTENDERS: dict[str, tuple[Make, str, str]] = {
    "timm, ONNX Runtime": (theirs, "ort", "fp32"),
    "timm, OpenVINO": (theirs, "openvino", "fp32"),
    "ours, ONNX Runtime": (ours, "ort", "fp32"),
    "ours, OpenVINO": (ours, "openvino", "fp32"),
    "timm, OpenVINO bf16": (theirs, "openvino", "bf16"),
    "ours, OpenVINO bf16": (ours, "openvino", "bf16"),
    "timm, ONNX Runtime int8": (their_int8, "ort", "int8"),
    "ours, ONNX Runtime int8": (our_int8, "ort", "int8"),
    "ours, OpenVINO int8": (our_int8, "openvino", "int8"),
    "timm, OpenVINO int8": (their_int8, "openvino", "int8"),
}


def paddle(python: Path, variant: str, batch_size: int, engine: Engine, folder: Path) -> Elsewhere:
    """The network in Paddle Inference, its logits those of ``engine``."""
    torch.manual_seed(0)
    network = unsettle(create_model(variant)).eval()
    (folder / "sizes.json").write_text(json.dumps(asdict(VARIANTS[variant])))
    write_pdparams(folder / "weights.pdparams", to_paddle(network))
    np.save(folder / "images.npy", images(batch_size))
    program = Elsewhere(python, "paddle_contender.py", folder)
    own, its = engine.logits(images(batch_size)), np.load(folder / "logits.npy")
    difference = float(np.abs(own - its).max() / own.std())
    if not difference <= 1e-4:
        raise SystemExit(f"{variant}: Paddle's logits are not ours, {difference:.1e} apart")
    return program


def measured(variant: str, batch_size: int, given: argparse.Namespace, folder: Path) -> Case:
    cost = measure_cost(create_model(variant))
    flop = 2.0 * batch_size * cost.macs
    values = cost.params + batch_size * cost.activations
    pixels = images(batch_size)
    every = {}
    for name, (make, engine, precision) in CONTENDERS.items():
        if precision not in given.precisions:
            continue
        try:
            loaded = load_engine(
                made(make, variant, folder), engine=engine, precision=precision,
                threads=given.threads, batch_size=batch_size,
            )  # fmt: skip
        except EngineUnavailable as error:  # no bf16 here, or int8 that is wrong here
            print(f"{name} is left out: {error}")
            continue
        every[name] = Contender(
            lambda loaded=loaded: loaded.logits(pixels),
            precision,
            ours=name.startswith("ours"), flop=flop, precision=precision,
            moved=float(BYTES[precision] * values),
        )  # fmt: skip
        if given.paddle_python and name == "ours, ONNX Runtime":
            program = paddle(given.paddle_python, variant, batch_size, loaded, folder)
            every["Paddle Inference"] = Contender(None, "fp32", lap=program.lap, flop=flop)
    threads = f", {given.threads} threads" if given.threads > 1 else ""
    return Case(
        f"{variant}, batch {batch_size}{threads}", every, units=batch_size,
        clock="wall" if given.threads > 1 else "cpu", base=next(iter(every)), one_job=True,
    )  # fmt: skip


def cases(given: argparse.Namespace) -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / given.lab
        folder.mkdir()
        for variant in given.variants[: 1 if given.quick else None]:
            for batch_size in given.batch_sizes[: 1 if given.quick else None]:
                yield measured(variant, batch_size, given, folder)


def options(parser: argparse.ArgumentParser) -> None:
    kinds = ["fp32", "bf16", "int8"]
    parser.add_argument("--variants", nargs="+", default=["b0", "b4"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--precisions", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--lab", choices=["relu", "clip", "affine"], default="relu")
    parser.add_argument("--paddle-python", type=Path, help="of an environment that has Paddle")


if __name__ == "__main__":
    run("onnx", cases, doc=__doc__, seconds=20, options=options)
