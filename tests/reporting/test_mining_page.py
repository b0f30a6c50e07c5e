"""The page about a mining: whole HTML, nothing from outside, with any number of classes."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from synthetic_inputs import CLASSES, HOSTILE, PURITY, mined_classes, mining_audit, png
from test_dataset_page import Balanced

from hgnetv2_pipeline.reporting.blocks import Picture
from hgnetv2_pipeline.reporting.chapters.mining import sheet_blocks
from hgnetv2_pipeline.reporting.figures import Spread, spreads
from hgnetv2_pipeline.reporting.inputs import FileLedger, ReportInputs
from hgnetv2_pipeline.reporting.mining_page import build_mining_page

PAIRS = (
    "key,val_key,protected,channel,distance,inliers,correlation,high_pass,decision\n"
    "a/<b>.jpg,v1.png,val,phash,8,27,0.9912,0.9,remove\n"
    "c.jpg,v2.png,val,bytes,-1,0,0.0000,0.0,remove\n"
    "doubt.jpg,v3.png,test,phash,9,0,0.9600,0.6,review\n"
)


def build(folder: Path, names: list[str], pairs: str = PAIRS, **changes: Any) -> str:
    audit = {**mining_audit(), "classes": len(names), **changes}
    (folder / "sheets").mkdir(parents=True)
    (folder / "audit.json").write_text(json.dumps(audit, sort_keys=True), encoding="utf-8")
    (folder / "classes.csv").write_text(mined_classes(names, 60), encoding="utf-8")
    (folder / "pairs.csv").write_text(pairs, encoding="utf-8")
    (folder / "purity.csv").write_text(PURITY, encoding="utf-8")
    for name in ("top", "bottom", "removed", "review"):
        (folder / "sheets" / f"{name}.png").write_bytes(png(760, 210))
    page = build_mining_page(
        folder, folder / "page.html",
        ReportInputs(
            dataset="mine", run_command="kedro run --env mine",
            mining_purity=folder / "purity.csv",
        ),
        teacher="mixed", params=[("mining.k", None, "images per class"), ("mining.top_p", 1, "")],
        review="../../re view/review.csv",
    )  # fmt: skip
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("classes", [10, 1000])
def test_the_page_is_whole_and_loads_nothing(tmp_path: Path, classes: int) -> None:
    names = CLASSES if classes == 10 else [f"{HOSTILE} {n}" for n in range(classes)]
    text = build(tmp_path, names)
    parser = Balanced()
    parser.feed(text)
    parser.close()
    assert parser.open == [] and {"table", "svg", "img", "details"} <= parser.seen
    assert "script" not in parser.seen and "<b>" not in re.sub(r'<div class="card"><b>', "", text)
    assert re.findall(r'src="(?!data:)', text) == []
    links = set(re.findall(r'href="(?!#)([^"]*)"', text))
    assert links - {"classes.csv"} == {"../../re%20view/review.csv"}
    assert "Not shown" not in text
    assert len(text) < 150_000


@pytest.mark.parametrize(
    "words",
    [
        "98.0 % (95.7 to 99.1), 294 right of 300 hidden images",
        "93.4 % (551 of 590), 28 images belong to no class",
        "upper bound",
        "3 decisions by a person were applied: 1 images kept, 2 removed, 1 of them against",
        "4 pairs await a decision",
        "kedro run --env mine --pipeline mining",
        "1 have fewer, 0 of them none",
        "a/<b>.jpg",
        "doubt.jpg",
        "mining.top_p",
    ],
)
def test_the_page_says(words: str, tmp_path: Path) -> None:
    assert words in unescape(build(tmp_path, CLASSES))


def test_of_many_classes_the_weak_ones_are_named(tmp_path: Path) -> None:
    text = build(tmp_path, [f"class {n}" for n in range(1000)])
    for title in (
        "The lowest cut-offs, 12 of 980 classes",
        "The shortest classes, 12 of 20 classes",  # each 50th is empty
        "The least pure classes, by hidden images, 12 of 980 classes",
    ):
        assert title in text
    assert text.count("<tr>") < 120


def test_nothing_removed_and_nothing_in_doubt_is_said(tmp_path: Path) -> None:
    text = build(tmp_path, CLASSES, pairs=PAIRS.splitlines()[0] + "\n", by_channel={})
    assert "No image was removed for its likeness" in text
    assert text.count("<img") == 2
    assert "Not shown" not in text


def test_hidden_images_the_teacher_was_trained_on_are_called_that(tmp_path: Path) -> None:
    found = {**mining_audit()["estimate"], "set": "train"}
    assert "The teacher was trained on these" in build(tmp_path, CLASSES, estimate=found)


@pytest.mark.parametrize("classes", [1, 40, 41, 21_841])
def test_spreads_are_bars_or_curves_and_never_large(classes: int) -> None:
    rows = [Spread(f"{HOSTILE} {n}", 0.2, 0.5 + n / 1e5, 0.9) for n in range(classes)]
    drawing = spreads(rows, x_label="probability")
    assert len(ElementTree.fromstring(drawing)) > 4  # noqa: S314
    assert len(drawing) < 40_000


@pytest.mark.parametrize("known", [False, True])
def test_captions_are_sentences_that_name_no_file(tmp_path: Path, known: bool) -> None:
    audit = mining_audit()
    audit.pop("purity", None)
    sheets = []
    for name in ("top", "bottom", "removed", "review"):
        sheets.append(tmp_path / f"{name}.png")
        sheets[-1].write_bytes(png(40, 30))
    audit |= {"by_channel": {"phash": {"remove": 3, "review": 0, "keep": 1}}}
    audit |= {"purity": {"known": 5}} if known else {}
    shown = sheet_blocks(sheets, audit, FileLedger())
    captions = [block.caption for block in shown if isinstance(block, Picture)]
    assert len(captions) == len(shown) == 3  # no pair is in doubt: no picture of a sentence
    assert not any(re.search(r": (top|bottom|removed|review)$", said) for said in captions)
    assert ["Red frames: wrong" in said for said in captions] == [known, known, False]
    assert "the logit of the class less that of the next one" in captions[0]
