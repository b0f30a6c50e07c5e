"""What Kedro-Viz is given to show of a result, sound or damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hgnetv2_pipeline.datasets import CurveFile, JsonFile, JsonTable, ResultFolder


@pytest.mark.parametrize("kind", [JsonFile, ResultFolder])
def test_a_sound_file_is_shown_as_it_is(kind: type, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"a": [1, null, "é"]}', encoding="utf-8")
    dataset = kind(str(tmp_path if kind is ResultFolder else tmp_path / "manifest.json"))
    assert json.loads(dataset.preview()) == {"a": [1, None, "é"]}


@pytest.mark.parametrize("kind", [JsonFile, ResultFolder])
@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe", b"[" * 100_000])
def test_of_a_damaged_file_it_is_shown_that_it_cannot_be_read(
    kind: type, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    dataset = kind(str(tmp_path if kind is ResultFolder else tmp_path / "manifest.json"))
    assert list(json.loads(dataset.preview())) == ["manifest.json cannot be read"]


def test_a_folder_loads_as_its_path_and_shows_one_of_its_files(tmp_path: Path) -> None:
    curve = CurveFile(str(tmp_path), shows="history.csv")
    assert not curve.exists() and curve.preview() == {}
    (tmp_path / "history.csv").write_text("step,loss\n1,0.5\n2,0.25\n")
    assert curve.exists() and curve.load() == tmp_path
    [line] = curve.preview()["data"]
    assert (line["x"], line["y"]) == ([1, 2], [0.5, 0.25])
    alone = CurveFile(str(tmp_path / "history.csv"))
    assert list(alone.load()) == ["step", "loss"]


@pytest.mark.parametrize("kind", [JsonFile, ResultFolder])
def test_of_what_is_not_made_yet_nothing_is_shown(kind: type, tmp_path: Path) -> None:
    assert json.loads(kind(str(tmp_path / "absent")).preview()) == {}


def test_curves_have_a_title_and_named_axes_and_a_single_value_is_no_curve(tmp_path: Path) -> None:
    run = tmp_path / "ssld_stage1" / "b0" / "seed=0"
    run.mkdir(parents=True)
    (run / "history.csv").write_text("step,loss,val_top1,lr\n1,0.5,,0.1\n2,0.25,0.875,0.05\n")
    shown = CurveFile(str(run), shows="history.csv").preview()
    layout = shown["layout"]
    assert [line["name"] for line in shown["data"]] == ["loss", "lr"]
    assert layout["title"]["text"] == "ssld_stage1/b0/seed=0, val_top1 0.875"
    axes = ("xaxis", "yaxis", "xaxis2", "yaxis2")
    assert [layout[axis]["title"]["text"] for axis in axes] == ["step", "loss", "step", "lr"]


def test_rows_of_a_json_file_are_shown_as_a_table(tmp_path: Path) -> None:
    file = tmp_path / "comparison.json"
    table = JsonTable(str(file), rows="rows", columns=["label", "seed"])
    assert table.preview() == {}
    file.write_text('{"rows": [{"label": "SSLD", "seed": 0, "n": 9}, {"label": "teacher"}]}')
    assert table.preview() == {
        "index": [0, 1], "columns": ["label", "seed"], "data": [["SSLD", "0"], ["teacher", ""]]
    }  # fmt: skip
    assert table.load()["rows"][0]["n"] == 9
