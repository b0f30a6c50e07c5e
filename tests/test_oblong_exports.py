"""One fit of a model's images, from preprocess.json to every engine's answers.

An oblong image is seen alike by PyTorch, the ONNX file, its int8 form, the kit's script and a
program that knows nothing but ``preprocess.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from PIL import Image, ImageOps

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.engines.with_torch import load_torch_engine
from hgnetv2_pipeline.deployment.export.bundle import write_bundle
from hgnetv2_pipeline.deployment.export.gate import Validation
from hgnetv2_pipeline.deployment.export.kit_folder import KitPlan, trtexec_lines, write_kit
from hgnetv2_pipeline.deployment.export.precisions import Calibration
from hgnetv2_pipeline.deployment.kit import run as kit_run
from hgnetv2_pipeline.deployment.kit.plans import BatchProfile
from hgnetv2_pipeline.deployment.predict import predict_paths
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.weights.load import save_weights
from image_files import encoded, put

CLASSES = ["bad", "good"]
FITS = {
    "crop": Preprocess(40, 32),
    "crop oblong": Preprocess(32, (32, 96)),
    "squash": Preprocess(crop=32, fit="squash"),
    "squash oblong": Preprocess(crop=(32, 64), fit="squash", interpolation="bilinear"),
    "pad": Preprocess(crop=32, fit="pad", background=(255, 255, 255)),
    "pad oblong": Preprocess(crop=(64, 32), fit="pad", pad_colour=(1, 2, 3)),
}


def described(preprocess: dict[str, Any], path: Path) -> npt.NDArray[np.float32]:
    """The input of a network by the words of preprocess.json, and Pillow and NumPy alone."""
    image = Image.open(path)
    if image.mode == "RGBA" and "background" in preprocess:
        ground = Image.new("RGBA", image.size, tuple(preprocess["background"]))
        image = Image.alpha_composite(ground, image)
    image = ImageOps.exif_transpose(image)
    if image.mode == "I;16":
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    image = image.convert("RGB")
    w, h = image.size
    height, width = preprocess["input"]["height"], preprocess["input"]["width"]
    fit = preprocess.get("fit", "crop")
    short = preprocess["resize_short"]
    tall, broad = (
        round(height * short / min(height, width)),
        round(width * short / min(height, width)),
    )
    if fit == "squash":
        size = width, height
    elif (w * tall >= h * broad) == (fit == "crop"):
        size = max(1, round(w * tall / h)), tall
    else:
        size = broad, max(1, round(h * broad / w))
    image = image.resize(size, getattr(Image.Resampling, preprocess["interpolation"].upper()))
    if fit == "crop":
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        image = image.crop((left, top, left + width, top + height))
    if fit == "pad":
        bars = Image.new("RGB", (width, height), tuple(preprocess["pad_colour"]))
        bars.paste(image, ((width - size[0]) // 2, (height - size[1]) // 2))
        image = bars
    pixels = np.asarray(image).astype(np.float32) / np.float32(255)
    pixels = (pixels - np.float32(preprocess["mean"])) / np.float32(preprocess["std"])
    return pixels.transpose(2, 0, 1)[None]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Oblong pictures: RGB, turned by EXIF, grey of 16 bits, transparent, a sliver."""
    random = np.random.default_rng(0)

    def noise(*shape: int) -> npt.NDArray[np.uint8]:
        return random.integers(0, 256, shape, np.uint8)

    exif = Image.Exif()
    exif[0x0112] = 6
    marked = noise(64, 192, 3)
    marked[20:44, 2:26] = (220, 30, 30)
    files = {
        "marked.png": encoded(Image.fromarray(marked)),
        "turned.jpg": encoded(Image.fromarray(noise(41, 90, 3)), "JPEG", exif=exif),
        "deep.png": encoded(Image.fromarray(noise(30, 99).astype(np.uint16) * 257)),
        "clear.png": encoded(Image.fromarray(noise(50, 47, 4))),
        "sliver.png": encoded(Image.fromarray(noise(3, 200, 3))),
    }
    root = put(tmp_path_factory.mktemp("pictures"), files)
    return [root / name for name in files]


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model("b0", 2).eval()


def whole(how: Preprocess, images: list[Path]) -> Any:
    return [(np.stack([how.image(path) for path in images]), np.arange(len(images)) % 2)]


@pytest.mark.parametrize("case", FITS)
def test_every_engine_and_the_words_alone_see_the_same(
    case: str, images: list[Path], network: torch.nn.Module, tmp_path: Path
) -> None:
    how = FITS[case]
    validation = Validation(lambda: whole(how, images), "oblong pictures")
    calibration = Calibration(lambda: (pixels for pixels, _ in whole(how, images)), "the same")
    manifest = write_bundle(
        network, tmp_path / "export", image_size=how.crop, class_names=CLASSES, preprocess=how,
        precisions=("fp32", "int8"), validation=validation, calibration=calibration,
        max_drop={"int8": 1.0},
    )  # fmt: skip
    assert manifest["image_size"] in (how.crop, list(how.size))
    assert ModelCard.from_folder(tmp_path / "export").preprocess == how
    said = json.loads((tmp_path / "export" / "preprocess.json").read_text())
    session = onnxruntime.InferenceSession(str(tmp_path / "export" / "model.onnx"))
    assert session.get_inputs()[0].shape[1:] == [3, *how.size]
    wanted = []
    for path in images:
        given = described(said, path)
        assert np.array_equal(given[0], how(path)), "pixels by the words alone"
        wanted.append(session.run(None, {"images": given})[0][0])
    save_weights(
        tmp_path / "net.safetensors",
        network,
        {
            "format": "hgnetv2_pipeline/1", "variant": "b0", "num_classes": "2",
            "preprocess": json.dumps(how.to_dict()), "classes": json.dumps(CLASSES),
        },
    )  # fmt: skip
    exact = torch.from_numpy(np.stack(wanted)).softmax(1).numpy()
    engines = {
        "fp32": load_engine(tmp_path / "export" / "model.onnx", engine="ort"),
        "torch": load_torch_engine("net.safetensors", root=tmp_path),
        "int8": load_engine(tmp_path / "export" / "model.int8.onnx", engine="ort"),
    }
    for name, engine in engines.items():
        assert engine.preprocess == how
        records = predict_paths(engine, [str(path) for path in images], topk=2, batch_size=2)
        scores = np.array([[dict(zip(r["class_ids"], r["scores"], strict=True))[c] for c in (0, 1)]
                           for r in records])  # fmt: skip
        # int8 rounds the network, not what it sees; a card's own gate says by how much it may.
        assert np.abs(scores - exact).max() <= (0.1 if name == "int8" else 1e-5)


@pytest.mark.parametrize("case", ["crop oblong", "pad"])
def test_a_kit_is_made_and_checked_at_the_models_own_size(
    case: str, images: list[Path], network: torch.nn.Module, tmp_path: Path
) -> None:
    how = FITS[case]
    source = Validation(lambda: whole(how, images), "oblong pictures")
    plan = KitPlan(
        labs=("clip",), precisions=("fp32",), profile=BatchProfile(1, 1, 4), batch_sizes=(1,),
        images=5,
    )  # fmt: skip
    kit = write_kit(
        network, tmp_path, plan, model_name="x", class_names=CLASSES, preprocess=how,
        validation=source, packed=source, metadata={},
        calibration=Calibration(lambda: (pixels for pixels, _ in whole(how, images)), "the same"),
    )  # fmt: skip
    height, width = how.size
    assert f"images:1x3x{height}x{width}" in trtexec_lines(kit)[0]
    session = onnxruntime.InferenceSession(str(tmp_path / kit["graphs"][0]["file"]))
    timed: list[tuple[int, ...]] = []

    def opened(path: Path, precision: str) -> kit_run.Opened:
        def time(batch: npt.NDArray[Any]) -> dict[str, Any]:
            timed.append(batch.shape)
            return {"batch_size": len(batch), "gpu": {"p50_ms": 1.0}}

        return lambda given: session.run(None, {"images": given})[0], time

    found = kit_run.measure_kit(
        tmp_path, opened, engine="tensorrt", device="d", versions={}, batch_sizes=[1, 2]
    )
    assert found["rows"][0]["check"]["same_top1"] == len(images)
    assert timed == [(1, 3, height, width), (2, 3, height, width)]
    packed = np.load(tmp_path / "validation.npz")["images"]
    assert np.array_equal(packed[0], how.image(images[0]))
