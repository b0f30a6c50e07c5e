"""The chapter about suspected label errors says how many to look at, and how sure that is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.reporting.blocks import Fold, Text
from hgnetv2_pipeline.reporting.build import compose
from hgnetv2_pipeline.reporting.chapters.labels import label_blocks
from hgnetv2_pipeline.reporting.inputs import FileLedger, ReportInputs


def inputs(folder: Path, **changed: object) -> ReportInputs:
    found = {"images": 200, "held_out_right": 180, "listed": 2, "suspected": 1, "estimate": 11.6,
             "interval": [6.2, 19.4], "probes": ["simple"], "by_set": {"train": 2}}  # fmt: skip
    (folder / "e.json").write_text(json.dumps(found | changed))
    (folder / "e.csv").write_text(
        "rank,key,set,given,suggested,score,suspected\n"
        "1,images/a/<b>.png,train,cat,dog,0.9900,yes\n2,images/c.png,val,dog,cat,0.6000,no\n"
    )
    Image.new("RGB", (8, 8)).save(folder / "e.png")
    places = {"": "e.json", "_list": "e.csv", "_sheet": "e.png"}
    return ReportInputs(
        dataset="mine", run_command="kedro run --env mine",
        own={f"label_errors{end}": folder / name for end, name in places.items()},
    )  # fmt: skip


def test_it_says_how_many_to_look_at_and_where(tmp_path: Path) -> None:
    blocks = label_blocks(inputs(tmp_path), FileLedger())
    said = " ".join(block.text for block in blocks if isinstance(block, Text))
    assert "About 12 of 200 labels are wrong (95 % interval 6 to 19)" in said
    assert "first 2" in said and "hgnetv2 review --env mine" in said
    (rows,) = [block.blocks[0].rows for block in blocks if isinstance(block, Fold)]
    assert rows[0] == ("1", "images/a/<b>.png", "train", "cat", "dog", "0.9900")


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        label_blocks(inputs(tmp_path, held_out_right=201), FileLedger())


def test_a_report_without_it_has_no_such_chapter(tmp_path: Path) -> None:
    made = inputs(tmp_path)
    assert "labels" in [part.anchor for part in compose(made, []).sections]
    (tmp_path / "e.json").unlink()
    assert "labels" not in [part.anchor for part in compose(made, []).sections]
