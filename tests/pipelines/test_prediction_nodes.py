"""The prediction pipeline's node: every format, every input, and what makes it answer again."""

from __future__ import annotations

import ast
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from hgnetv2_pipeline.data.index import samples_frame, write_index
from hgnetv2_pipeline.data.scan.archives import index_archive
from hgnetv2_pipeline.pipelines.prediction.nodes import predict
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.params import PredictionParams
from tiny_project import run_of


def parameters(**given: Any) -> PredictionParams:
    values: dict[str, Any] = {
        "topk": 5, "threshold": None, "multi_label": None, "class_map": None, "batch_size": 2,
        "engine": "auto",
    }  # fmt: skip
    return PredictionParams(**(values | given))


def test_the_answers_are_written_in_every_format_and_reused(exported: Identity) -> None:
    pictures = exported.project / "pictures"
    pictures.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(pictures / f"{number}.png")
    (pictures / "bad.jpg").write_text("no picture")
    (exported.project / "names.txt").write_text("0 eins\n1 zwei\n2 drei\n", encoding="utf-8")

    def answers(params: PredictionParams) -> Path:
        lists = exported.folder("lists")  # not looked at: images are given
        bundle = exported.folder("export")
        run = run_of(exported, device="auto")
        return predict(run, params, ["pictures"], lists, bundle)[0].parent

    folder = answers(parameters(class_map="names.txt", threshold=0.2))
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    names = ["pictures/0.png", "pictures/1.png", "pictures/2.png", "pictures/bad.jpg"]
    assert [row["file_name"] for row in rows] == names
    assert {name for row in rows for name in row["label_names"]} <= {"eins", "zwei", "drei"}
    assert all(score >= 0.2 for row in rows for score in row["scores"])
    assert "not an image" in rows[3]["error"]
    table = pyarrow.parquet.read_table(folder / "predictions.parquet").to_pylist()
    assert [{"error": None, **row} for row in rows] == table
    lines = (folder / "predictions.txt").read_text(encoding="utf-8").splitlines()
    assert [line.partition(":")[0] for line in lines] == ["0.png", "1.png", "2.png", "bad.jpg"]
    infer = ast.literal_eval((folder / "predictions.infer.txt").read_text(encoding="utf-8"))
    assert [row["file_name"] for row in infer] == names
    head = (folder / "predictions.csv").read_text(encoding="utf-8").splitlines()[0]
    assert head.endswith("label_3")  # the model has no more than three classes
    with Image.open(folder / "predictions.png") as sheet:
        assert sheet.size[0] == 4 * 98 + 2
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("predictions.*")}
    assert len(before) == 6
    answers(parameters(class_map="names.txt", threshold=0.2))
    assert {p.name: p.stat().st_mtime_ns for p in folder.glob("predictions.*")} == before
    (exported.project / "names.txt").write_text("0 un\n1 deux\n2 trois\n", encoding="utf-8")
    answers(parameters(class_map="names.txt", threshold=0.2))
    assert "eins" not in (folder / "predictions.jsonl").read_text()


def test_images_behind_a_glob_or_a_list_are_answered_again_when_they_change(
    exported: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = exported.project / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))

    def picture(name: str, level: int) -> None:
        Image.new("RGB", (40, 40), (level, level, level)).save(home / name)

    def names(wish: str) -> list[str]:
        lists, bundle = exported.folder("lists"), exported.folder("export")
        run = run_of(exported, device="auto")
        found, _ = predict(run, parameters(), [wish], lists, bundle)
        rows = [json.loads(line) for line in found.read_text().splitlines()]
        return [Path(row["file_name"]).name for row in rows if "error" not in row]

    picture("a.png", 10)
    assert names("~/*.png") == ["a.png"]
    picture("b.png", 90)
    assert names("~/*.png") == ["a.png", "b.png"]
    (home / "list.txt").write_text("a.png\nc.png\n")
    assert names("~/list.txt") == ["a.png"]
    picture("c.png", 200)
    assert names("~/list.txt") == ["a.png", "c.png"]


def test_validation_images_inside_a_tar_are_answered_themselves_not_the_whole_tar(
    exported: Identity, tmp_path: Path
) -> None:
    raw = exported.folder("raw")
    raw.mkdir(parents=True, exist_ok=True)
    for number in range(40):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(tmp_path / f"{number:02d}.png")
    with tarfile.open(raw / "val.tar", "w") as archive:
        for path in sorted(tmp_path.glob("*.png")):
            archive.add(path, path.name)
    rows = [
        (f"val.tar!{m.name}", "val.tar", m.offset, m.length, 0, 40, 40, "PNG", "")
        for m in index_archive(raw / "val.tar").members
    ]
    Image.new("RGB", (40, 40)).save(raw / "z.png")
    rows.append(("z.png", "z.png", -1, -1, 0, 40, 40, "PNG", ""))
    lists, bundle = exported.folder("lists"), exported.folder("export")
    lists.mkdir(parents=True, exist_ok=True)
    write_index(lists / "index_val.parquet", samples_frame(rows))
    found, _ = predict(run_of(exported, device="auto"), parameters(), [], lists, bundle)
    told = [json.loads(line) for line in found.read_text().splitlines()]
    names = [Path(row["file_name"]).name for row in told]
    assert names == [f"val.tar!{number:02d}.png" for number in range(0, 32, 2)]
    assert not any("error" in row for row in told)
