"""The page about a dataset: whole HTML, nothing from outside, whatever the number of classes."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hgnetv2_pipeline.reporting.dataset_page import build_dataset_page

NAME = 'class {} <script>alert(1)</script> & "co"'
_VOID = {"meta", "img", "link", "br", "hr", "input", "rect", "line", "path", "circle", "wbr"}


class Balanced(HTMLParser):
    """Refuses a page whose elements are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag


def summary(classes: int, leaks: bool) -> dict[str, object]:
    counts = [
        {"label": label, "name": NAME.format(label), "n": 1 + label % 7} for label in range(classes)
    ]
    n = sum(int(str(row["n"])) for row in counts)
    spread = {"min": 20, "median": 300, "max": 4000}
    entry = {
        "n_images": n, "n_labelled": n, "n_classes": classes, "n_quarantined": 1, "bytes": 12345,
        "class_counts": counts, "imbalance": 7.0, "formats": {"JPEG": n}, "width": spread,
        "height": spread, "exact_copies": {"n_images": 0, "examples": []},
        "short_side": [["32-63", 3], ["64-127", n - 3]],
        "unreadable": [{"key": "a/<b>.jpg", "reason": "empty"}],
    }  # fmt: skip
    found = {"set": "train", "other": "val", "n_same_bytes": 1, "n_near": 2}
    return {
        "dataset": "mine", "sets": {"train": entry}, "shared": [], "conflicting_labels": [],
        "n_listed": n + 3, "n_used": n, "n_quarantined": 1, "n_refused": 2,
        "refused": [{"set": "images", "key": "x.jpg", "reason": "looks like y.jpg of val"}],
        "leaks": [{**found, "examples": [["x.jpg", "y.jpg", 3]]}] if leaks else [],
    }  # fmt: skip


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("leaks", [False, True])
def test_the_page_is_whole_and_loads_nothing(tmp_path: Path, classes: int, leaks: bool) -> None:
    from PIL import Image

    (tmp_path / "summary.json").write_text(json.dumps(summary(classes, leaks)))
    Image.new("RGB", (90, 40)).save(tmp_path / "sheet.png")
    page = build_dataset_page(
        tmp_path / "summary.json", tmp_path / "page.html", dataset="mine",
        sheets={"Images of train by class": tmp_path / "sheet.png"},
    )  # fmt: skip
    text = page.read_text("utf-8")
    parser = Balanced()
    parser.feed(text)
    parser.close()
    assert parser.open == [] and {"table", "svg", "img", "details"} <= parser.seen
    assert "script" not in parser.seen and "<b>.jpg" not in text
    assert re.findall(r'(?:src|href)="(?!data:|#)', text) == []
    assert "Not shown" not in text
    assert f"All {classes:,} classes" in text and "looks like y.jpg of val" in text
    for name in (0, classes - 1):
        assert f"class {name} &lt;script&gt;" in text
    said = "nearly the same" if leaks else "No image of train or val is in val or test"
    assert said in text
