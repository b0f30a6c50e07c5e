"""``hgnetv2 predict`` and ``benchmark`` as typed: what they print, write and exit with."""

from __future__ import annotations

import ast
import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from hgnetv2_pipeline.commands.main import main
from hgnetv2_pipeline.data.classmap import write_class_map
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.choices import ENGINES
from hgnetv2_pipeline.deployment.engines import ladder
from hgnetv2_pipeline.deployment.engines.base import Engine, EngineUnavailable
from hgnetv2_pipeline.deployment.export.to_onnx import export_onnx
from hgnetv2_pipeline.deployment.kit.libraries import TENSORRT_RTX
from hgnetv2_pipeline.deployment.timing import benchmark
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.models.create import create_model

GOLDEN = Path(__file__).parents[1] / "golden"
PROGRAM = Path(sys.executable).with_name("hgnetv2")


class Told(Engine):
    """Answers each picture with the probabilities told for its grey level."""

    name = "told"

    def __init__(self, told: dict[int, dict[int, float]]) -> None:
        card = ModelCard(preprocess=Preprocess(8, 8), classes=tuple(map(str, range(1000))))
        super().__init__(model="told", card=card, device="none")
        self.told = told

    def _run(self, images: np.ndarray) -> np.ndarray:
        grey = np.round((images[:, 0, 0, 0] * 0.229 + 0.485) * 255).astype(int)
        scores = np.empty((len(images), 1000))
        for row, level in zip(scores, grey, strict=True):
            told = self.told[int(level)]
            row[:] = max(1e-9, 1 - sum(told.values())) / (1000 - len(told))
            row[list(told)] = list(told.values())
        return np.log(scores).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    names = ["ant", "bee", "cat", "dog", "eel", "fox"]
    return export_onnx(create_model("b0", 6).eval(), path, 32, names)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with three pictures of which the second is none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pics").mkdir()
    for number, name in enumerate(("a.png", "c.jpg")):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pics" / name)
    (tmp_path / "pics" / "b.jpg").write_text("no picture")
    return tmp_path


def typed(*words: object, code: int = 0, given: bytes | None = None) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words], input=given)
    assert result.exit_code == code, result.output
    return result


def flat(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (level, level, level)).save(path, "PNG")


def test_both_of_the_seed_pages_formats_come_out_to_the_byte(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (GOLDEN / "seed_predict_cls.txt").read_text()
    names: dict[int, str] = {}
    told: dict[int, dict[int, float]] = {}
    for level, line in enumerate(lines.splitlines(), 10):
        name, *lists = re.findall(r"^(\S+):|(\[.*?\])(?=, score|, label|$)", line)
        ids, scores, labels = (ast.literal_eval(found) for _, found in lists)
        # What is printed as the same score has an order too, that of the page.
        exact = [(score or 9e-4) - at * 1e-4 for at, score in enumerate(scores)]
        exact[0] -= max(0.0, sum(exact) - 1)
        told[level] = dict(zip(ids, exact, strict=True))
        names |= dict(zip(ids, labels, strict=True))
        flat(folder / "images/ImageNet" / name[0], level)
    (hen,) = ast.literal_eval((GOLDEN / "seed_infer.txt").read_text())
    told[100] = dict(zip(hen["class_ids"], hen["scores"], strict=True))
    flat(folder / hen["file_name"], 100)
    monkeypatch.setattr(ladder, "load_engine", lambda *_, **__: Told(told))

    def class_map(known: dict[int, str]) -> Path:
        every = [known.get(number, f"class {number}") for number in range(1000)]
        write_class_map(folder / "label_list.txt", every)
        return folder / "label_list.txt"

    said = typed("predict", "--model", "x", "--class-map", class_map(names), "images/ImageNet/")
    assert said.stdout == lines
    names = dict(zip(hen["class_ids"], hen["label_names"], strict=True))
    words = ["predict", "--model", "x", "--class-map", class_map(names), "--format", "infer"]
    assert typed(*words, hen["file_name"]).stdout == (GOLDEN / "seed_infer.txt").read_text()


def test_every_input_has_a_row_in_order_and_the_bad_one_its_reason(
    folder: Path, model: Path
) -> None:
    said = typed("predict", "--model", model, "pics", "gone.jpg", "pics/a.png", "--topk", 2)
    lines = said.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "a.png", "b.jpg", "c.jpg", "gone.jpg", "a.png",
    ]  # fmt: skip
    assert lines[0] == lines[4]
    assert lines[1].startswith("b.jpg:    error: not an image")
    assert lines[3] == "gone.jpg:    error: no such file"


def test_bad_inputs_set_the_exit_code_when_all_are_bad_or_strictly(
    folder: Path, model: Path
) -> None:
    typed("predict", "--model", model, "pics")
    typed("predict", "--model", model, "pics", "--strict", code=3)
    said = typed("predict", "--model", model, "pics/b.jpg", code=3)
    assert "1 of 1 inputs could not be predicted" in said.stderr


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet", "txt"])
def test_the_ending_of_the_file_decides_the_format(ending: str, folder: Path, model: Path) -> None:
    out = folder / f"out/answers.{ending}"
    said = typed("predict", "--model", model, "pics", "--topk", 1, "--out", out)
    assert said.stdout == ""
    assert "3 rows in" in said.stderr
    if ending == "parquet":
        rows = pyarrow.parquet.read_table(out).to_pylist()
    elif ending == "csv":
        rows = list(csv.DictReader(out.read_text().splitlines()))
        assert list(rows[0]) == ["file_name", "error", "id_1", "score_1", "label_1"]
    elif ending == "jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        rows = [
            {"file_name": f"pics/{line.split(':')[0]}"} for line in out.read_text().splitlines()
        ]
    assert [row["file_name"] for row in rows] == ["pics/a.png", "pics/b.jpg", "pics/c.jpg"]


def test_a_pipe_of_paths_or_of_one_image_is_answered(folder: Path, model: Path) -> None:
    words = ("predict", "--model", model, "-", "--format", "jsonl", "--topk", 1)
    paths = typed(*words, given=b"pics/c.jpg\npics/a.png\n").stdout.splitlines()
    assert [json.loads(line)["file_name"] for line in paths] == ["pics/c.jpg", "pics/a.png"]
    image = json.loads(typed(*words, given=(folder / "pics/c.jpg").read_bytes()).stdout)
    assert image["file_name"] == "-"
    assert image["scores"] == json.loads(paths[0])["scores"]


def test_a_sheet_shows_the_first_images(folder: Path, model: Path) -> None:
    typed("predict", "--model", model, "pics", "--sheet", "s.png", "--sheet-images", 2)
    with Image.open(folder / "s.png") as sheet:
        assert sheet.size[0] == 2 * 98 + 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "parquet"], "--format parquet writes a file"),
        (["--out", "x.doc"], "unknown ending '.doc'"),
        (["--topk", "0"], "topk=0"),
        (["--out", "pics/a.png/x.csv"], "pics/a.png (Not a directory); name another place"),
        (["--device", "gpu"], "ort: runs on cpu, and device=cuda was asked for"),
    ],
)
def test_mistakes_are_told_in_one_line(
    words: list[str], message: str, folder: Path, model: Path
) -> None:
    said = typed("predict", "--model", model, "pics/a.png", *words, code=2)
    assert message in said.stderr
    assert not (folder / "x.doc").exists()


def test_a_benchmark_prints_a_table_of_the_width_and_json_only_where_asked(
    folder: Path, model: Path
) -> None:
    words = ["benchmark", model, "--engines", "ort,tensorrt", "--batch-sizes", "1,2", "--warmup", 1,
             "--runs", 3]  # fmt: skip
    said = typed(*words, "--out", "b.json")
    result = json.loads((folder / "b.json").read_text())
    assert [(row["batch_size"], row["n_timed"]) for row in result["rows"]] == [(1, 3), (2, 3)]
    table = said.stdout.splitlines()
    assert table[0].split()[:4] == ["model", "engine", "type", "batch"]
    assert "{" not in said.stdout and max(map(len, table[:4])) <= 80
    assert sum(" ort " in line for line in table) == 2
    (gap,) = result["not_run"]
    assert f"not run: {model} on tensorrt" in said.stdout
    assert "tensorrt is not installed" in gap["reason"]
    (line,) = typed(*words, "--json").stdout.splitlines()
    assert [row["batch_size"] for row in json.loads(line)["rows"]] == [1, 2]


def test_without_embeddings_in_the_file_that_is_the_reason(model: Path) -> None:
    said = typed("predict", "--model", model, "pics", "--features", "f.parquet", code=2)
    assert re.fullmatch(r"\S+: \S+ gives no embeddings; export it again .*", said.stderr.strip())


def test_verbose_says_which_engines_were_not_taken(model: Path, tmp_path: Path) -> None:
    def lines(*words: str) -> list[str]:
        command = [PROGRAM, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stderr.splitlines()

    picture = tmp_path / "a.png"
    Image.new("RGB", (40, 40)).save(picture)
    words = ["predict", "--model", str(model.resolve()), str(picture)]
    (engine,) = lines(*words)
    assert re.fullmatch(r"engine \S+ on .*", engine)
    assert [line for line in lines(*words, "-v") if line.startswith("not tensorrt: ")]


def test_a_reader_that_goes_away_does_not_take_the_features_with_it(folder: Path) -> None:
    """As ``hgnetv2 predict ... | head -0`` does: the pipe is closed before the first answer."""
    export_onnx(create_model("b0", 6).eval(), folder / "both.onnx", 32, list("abcdef"),
                embedding=True)  # fmt: skip
    command = [PROGRAM, "predict", "--model", "both.onnx", "pics", "--features", "left.parquet"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode in (0, 3), done.stderr
    assert pyarrow.parquet.read_table(folder / "left.parquet").num_rows == 3


def test_a_batch_that_has_no_room_costs_the_smaller_ones_nothing(
    folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small(Told):
        def _run(self, images: np.ndarray) -> np.ndarray:
            if len(images) > 1:
                raise EngineUnavailable("torch: no memory for a batch of 2")
            return np.zeros((1, 1000), np.float32)

    monkeypatch.setattr(benchmark, "load_engine", lambda *_, **__: Small({}))
    said = typed(
        "benchmark", model, "--batch-sizes", "1,2,4", "--warmup", 0, "--runs", 2, "--json",
    )  # fmt: skip
    result = json.loads(said.stdout)
    assert [row["batch_size"] for row in result["rows"]] == [1]
    assert [gap["reason"] for gap in result["not_run"]] == ["torch: no memory for a batch of 2"]


def test_models_are_exported_and_timed_in_turns_with_ratios_to_the_first(folder: Path) -> None:
    said = typed(
        "benchmark", "scratch:b0", "scratch:b1", "--engines", "ort", "--image-size", 32,
        "--batch-sizes", 16, "--turns", 1, "--out", "turns.json",
    )  # fmt: skip
    result = json.loads((folder / "turns.json").read_text())
    assert [row["image_size"] for row in result["rows"]] == [32, 32]
    (turns,) = result["comparisons"]
    assert turns["ratios"]["scratch:b0"] == {"cpu": 1.0, "wall": 1.0}
    assert "batch 16: scratch:b1 against scratch:b0: cpu" in said.stdout
    assert "V100" not in said.stdout  # published at 224 pixels


def test_nothing_that_runs_is_an_error_and_no_empty_table(model: Path) -> None:
    said = typed("benchmark", model, "--engines", "torch", code=2)
    assert "nothing can be run here: torch: runs weights" in said.stderr
    typed("benchmark", model, "--batch-sizes", "0", code=2)
    with pytest.raises(ParameterError, match="needs a model"):
        benchmark.run_benchmark([], root=Path())


def test_fresh_labs_are_moved_off_one_and_zero_for_a_fair_export() -> None:
    def scalars(network: Any) -> list[float]:
        return [value.item() for value in network.parameters() if value.numel() == 1]

    first, again = (benchmark.unsettle(create_model("b0", 2)) for _ in range(2))
    assert len(scalars(first)) == 62
    assert not {0.0, 1.0} & set(scalars(first))
    assert scalars(first) == scalars(again)
    assert [benchmark.is_fresh(name) for name in ("scratch:b0", "timm:x", "timm:x:pretrained")] == [
        True, True, False,
    ]  # fmt: skip


def test_engines_lists_all_with_version_place_or_what_is_missing() -> None:
    lines = CliRunner().invoke(main, ["engines"]).stdout.splitlines()
    rows = {line.split()[0]: line for line in lines}
    assert list(rows) == list(ENGINES)
    import onnxruntime

    assert f" {onnxruntime.__version__} " in rows["ort"]
    assert "not here" not in rows["ort"] + rows["torch"]
    if importlib.util.find_spec("tensorrt_rtx_bindings"):
        assert rows["tensorrt-rtx"].split()[1] == TENSORRT_RTX.load().__version__
    for name, row in rows.items():
        reason = row.partition("not here: ")[2]
        assert not reason or re.search("install|driver|no NVIDIA GPU", reason), name


def test_engines_names_what_a_library_of_the_system_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    monkeypatch.setattr(ladder, "need", lambda module, engine: None)
    said = CliRunner().invoke(main, ["engines"]).stdout
    assert re.search(
        "tensorrt-rtx +- +not here: TensorRT for RTX cannot be imported .*pip install "
        "tensorrt-rtx-cu12-libs tensorrt-rtx-cu12-bindings",
        said,
    )
