"""INT8 on this processor: every engine's answers beside those of the graph as it is written.

    python benchmarks/check_int8.py EXPORT_FOLDER LIST_FILE --root IMAGES
    python benchmarks/check_int8.py --formula b0 b4

The first line takes a folder with model.onnx and model.int8.onnx and the images of a list; the
second exports networks with weights by formula and answers images of noise. An engine is refused,
or gives the graph's own top-1 for so many of the images. "As written" is ONNX Runtime with no
optimisation: QuantizeLinear and DequantizeLinear one by one, convolutions in float32.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime

from hgnetv2_pipeline.data.lists.read import read_list
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment.engines.base import EngineUnavailable
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.export.bundle import write_bundle
from hgnetv2_pipeline.deployment.export.gate import Validation
from hgnetv2_pipeline.deployment.export.precisions import Calibration
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.processor import describe
from hgnetv2_pipeline.weights.formula import formula_state
from hgnetv2_pipeline.weights.load import from_paddle, load_state

BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("list", nargs="?", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--formula", nargs="+", default=[], metavar="VARIANT")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--images", type=int, default=64)
    options = parser.parse_args()
    if not options.formula and not (options.folder and options.list):
        parser.error("give EXPORT_FOLDER and LIST_FILE, or --formula VARIANT ...")
    print(f"{describe()}; onnxruntime {onnxruntime.__version__}")
    if options.folder:
        preprocess = load_engine(options.folder, "ort").preprocess
        root = options.root or options.list.parent
        paths = [root / path for path in read_list(options.list, root=root).path]
        pixels = np.stack([preprocess.image(path) for path in paths])
        compare(str(options.folder), options.folder, preprocess.normalize(pixels))
    for variant in options.formula:
        with tempfile.TemporaryDirectory() as folder:
            pixels = np.random.default_rng(0).integers(
                0, 256, (options.images, options.side, options.side, 3), np.uint8
            )
            export(variant, Path(folder), pixels, options.side)
            images = load_engine(folder, "ort").preprocess.normalize(pixels)
            compare(f"{variant}, weights by formula", Path(folder), images)


def export(variant: str, folder: Path, pixels: np.ndarray, side: int) -> None:
    model = create_model(variant)
    load_state(model, from_paddle(formula_state(model)), source="formula")
    few = pixels[:8]
    write_bundle(
        model.eval(), folder, image_size=side, precisions=("fp32", "int8"),
        preprocess=Preprocess.at_size(side),
        validation=Validation(lambda: [(few, np.full(len(few), -1))], "noise"),
        calibration=Calibration(lambda: [few], "noise"), max_drop={"int8": 100.0},
    )  # fmt: skip


def compare(name: str, folder: Path, images: np.ndarray) -> None:
    parts = [images[at : at + BATCH] for at in range(0, len(images), BATCH)]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(folder / "model.int8.onnx"), options)
    exact = np.concatenate([session.run(["logits"], {"images": part})[0] for part in parts])
    print(f"{name}: {len(images)} images")
    for engine in ("ort", "openvino", "auto"):
        try:
            loaded = load_engine(folder, engine, precision="int8")
        except EngineUnavailable as error:
            print(f"  {engine:9} refused: {error}")
            continue
        began = time.process_time()
        got = np.concatenate([loaded.logits(part) for part in parts])
        taken = 1e3 * (time.process_time() - began) / len(images)
        off = np.sqrt(np.square(got - exact).mean()) / exact.std()
        same = int((got.argmax(1) == exact.argmax(1)).sum())
        print(
            f"  {engine:9} {loaded.name}: same top-1 for {same} of {len(images)}, logits off by "
            f"{off:.1e} of their standard deviation, {taken:.1f} CPU ms per image"
        )


if __name__ == "__main__":
    main()
