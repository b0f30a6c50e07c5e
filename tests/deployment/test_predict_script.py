"""predict.py beside model.onnx: our pixels and answers, where nothing of ours is installed."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from deployment_cases import CLASSES, SIDE
from PIL import Image

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment import predict_script
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.export.single_file import single_file
from hgnetv2_pipeline.deployment.predict import iter_predictions
from hgnetv2_pipeline.deployment.prediction_formats import (
    csv_lines,
    format_infer,
    format_predict_cls,
    jsonl_lines,
)

# Only numpy, pillow, onnxruntime and what this one brings along may be imported.
ALONE = """
import runpy, sys
AWAY = {"hgnetv2_pipeline", "torch", "torchvision", "timm", "kedro", "mlflow", "dvc", "pandas",
        "pyarrow", "onnx", "sklearn", "matplotlib", "cv2", "scipy", "openvino", "tensorrt", "click",
        "tqdm", "yaml", "pydantic"}
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in AWAY:
            raise ImportError(f"{name} is away")
sys.meta_path.insert(0, Wall())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def alone(
    folder: Path, *words: str, code: int = 0, given: bytes = b""
) -> tuple[list[str], list[str]]:
    """The lines of standard output and error of the folder's script, without our package."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, str(folder / "predict.py"), *words],
        input=given, capture_output=True, check=False, env={"PATH": ""},
    )  # fmt: skip
    errors = done.stderr.decode().splitlines()
    assert done.returncode == code, errors
    return done.stdout.decode().splitlines(), errors


def with_card(onnx_file: Path, folder: Path, **entries: str) -> Path:
    """An export folder with the network of ``onnx_file`` and other entries in its card."""
    folder.mkdir()
    proto = onnx.load(onnx_file)
    props = {entry.key: entry.value for entry in proto.metadata_props} | entries
    onnx.helper.set_model_props(proto, props)
    onnx.save(proto, folder / "model.onnx")
    (folder / "predict.py").write_text(single_file(predict_script.__name__), encoding="utf-8")
    return folder


def png(pixels: np.ndarray) -> bytes:
    """16 bits a channel are more than Pillow writes of colours, and enough of grey."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of every kind and odd sizes, bad ones, and some in a tar."""
    folder = tmp_path_factory.mktemp("kinds")
    random = np.random.default_rng(7)

    def pixels(height: int, width: int, *channels: int) -> np.ndarray:
        coarse = random.integers(0, 256, (5, 7, *channels), np.uint8)
        return np.asarray(Image.fromarray(coarse).resize((width, height)))

    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels(91, 133, 3)).save(folder / "turned.jpg", exif=turned)
    Image.fromarray(pixels(301, 45, 3)).save(folder / "tall é.webp", lossless=True)
    Image.fromarray(pixels(45, 301, 4)).save(folder / "alpha.png")
    Image.fromarray(pixels(70, 66)).convert("P").save(folder / "palette.gif")
    Image.fromarray(pixels(70, 66, 4), "CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(pixels(33, 500, 3)).save(folder / "wide.bmp")
    deep = random.integers(0, 4096, (64, 80)).astype(np.uint16)
    (folder / "deep.png").write_bytes(png(deep))
    (folder / "cut.jpg").write_bytes((folder / "turned.jpg").read_bytes()[:-40])
    (folder / "page.png").write_text("<html>")
    (folder / "empty.jpg").touch()
    with tarfile.open(folder / "some.tar", "w") as tar:
        tar.add(folder / "turned.jpg", "inside/turned.jpg")
    return folder


SEEN = Preprocess(SIDE, SIDE)
CARDS = {
    "crop": SEEN,
    "crop with background": replace(SEEN, resize_short=70, background=(255, 0, 7)),
    "squash": replace(SEEN, fit="squash", depth=12),
    "pad": replace(SEEN, fit="pad", pad_colour=(1, 2, 3), depth=(100, 4000)),
    "several labels": SEEN,
}


@pytest.mark.parametrize("case", CARDS)
def test_the_script_answers_as_the_package_does(
    b0_onnx: Path, kinds: Path, tmp_path: Path, case: str
) -> None:
    entries = {"preprocess": json.dumps(CARDS[case].to_dict())}
    if case == "several labels":
        entries |= {"task": "multi_label", "thresholds": json.dumps([0.3] * len(CLASSES))}
    folder = with_card(b0_onnx, tmp_path / "export", **entries)
    lines, errors = alone(folder, str(kinds), "--format", "jsonl")
    with load_engine(folder / "model.onnx", "ort") as engine:
        topk = None if engine.card.multi_label else 5
        records = list(iter_predictions(engine, kinds, topk=topk))
    assert lines == list(jsonl_lines(records))
    bad = [record["file_name"] for record in records if "error" in record]
    assert [Path(name).name for name in bad] == ["cut.jpg", "empty.jpg", "page.png"]
    assert len(lines) == 11 and f"{bad[1]}: the file is empty (0 bytes)" in errors


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_script_runs_every_file_of_its_folder(
    precisions: Path, kinds: Path, precision: str
) -> None:
    file, picture = f"model.{precision}.onnx", str(kinds / "alpha.png")
    lines, _ = alone(precisions, "--file", file, "--format", "jsonl", picture)
    with load_engine(precisions / file, "ort") as engine:
        assert lines == list(jsonl_lines(iter_predictions(engine, picture)))


def test_a_file_of_one_batch_size_answers_any_number_of_images(
    b0_onnx: Path, kinds: Path, tmp_path: Path
) -> None:
    folder = with_card(b0_onnx, tmp_path / "export")
    pictures = [str(kinds / name) for name in ("alpha.png", "cmyk.jpg", "wide.bmp")]
    free, _ = alone(folder, *pictures)
    proto = onnx.load(folder / "model.onnx")
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(proto, folder / "model.onnx")
    assert alone(folder, *pictures)[0] == free


def test_formats_standard_input_and_limits_are_those_of_the_command(
    precisions: Path, kinds: Path
) -> None:
    picture = kinds / "turned.jpg"
    engine = load_engine(precisions / "model.onnx", "ort")
    records = list(iter_predictions(engine, picture, topk=2, threshold=0.15))
    expected: dict[str, Sequence[str]] = {
        "predict_cls": [format_predict_cls(records[0])],
        "infer": [format_infer(records)],
        "csv": list(csv_lines(records, topk=2)),
    }
    for name, lines in expected.items():
        words = ["--topk", "2", "--threshold", "0.15", "--format", name]
        assert alone(precisions, str(picture), *words)[0] == lines
    (line,), _ = alone(precisions, "-", given=picture.read_bytes())
    assert line.startswith("-:    class id(s): [")


def test_what_cannot_be_is_said_in_one_line_with_the_codes_of_the_command(
    precisions: Path, b0_onnx: Path, kinds: Path, tmp_path: Path
) -> None:
    name = str(kinds / "page.png")
    assert alone(precisions, name, str(kinds / "cmyk.jpg"), "--strict", code=3)[1][-1].startswith(
        "1 of 2 inputs could not be predicted; the first: "
    )
    assert alone(precisions, name, code=3)[0][0].startswith("page.png:    error: a web page")
    assert alone(precisions, name, "--topk", "-1", code=2)[1] == ["topk=-1; it must be at least 1"]
    (missing,) = alone(precisions, name, "--file", "model.bf16.onnx", code=4)[1]
    assert missing.endswith("model.bf16.onnx cannot be loaded: No such file or directory")
    (many,) = alone(precisions, name, "--threads", "2000", code=2)[1]
    assert many.startswith("threads=2000; give a count up to 1,024")
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-I", "-c", ALONE, str(precisions / "predict.py"), name]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 28 and b"disk full: " in done.stderr.splitlines()[-1]
    wrong = json.dumps({"allowed": 1e-3, "logits": [[float(n) for n in range(len(CLASSES))]] * 5})
    folder = with_card(b0_onnx, tmp_path / "wrong", probes=wrong)
    (line,) = alone(folder, name, code=4)[1]
    assert "is computed wrongly on this machine: its logits of the 5 images" in line


def test_the_file_is_readable_python_that_says_how_it_is_used(tmp_path: Path) -> None:
    text = single_file(predict_script.__name__)
    (tmp_path / "predict.py").write_text(text, encoding="utf-8")
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E9,F"]
    done = subprocess.run(
        [*ruff, "--output-format", "concise", str(tmp_path)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    # Nothing is missing or idle, but for a name in an annotation, which nobody evaluates.
    assert re.findall(r"F\d+ .*|E9\d+ .*", done.stdout) == ["F821 Undefined name `onnxruntime`"]
    assert text.startswith('"""Classify images with the model beside this file: python predict.py')
    assert "pip install onnxruntime numpy pillow" in text
    assert "from hgnetv2_pipeline" not in text and "import hgnetv2_pipeline" not in text
    # Of two modules that use a name for two things each keeps its own.
    assert "_MOST_of_depth = 65535" in text and "_LEAST_STD, _MOST_of_preprocess = " in text
