from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from synthetic_inputs import png

from hgnetv2_pipeline.reporting.build import build_report
from hgnetv2_pipeline.reporting.inputs import ReportInputs


def test_the_chapter_of_curves_shows_what_each_training_saw(
    report_inputs: ReportInputs, tmp_path: Path
) -> None:
    views = {}
    for place, run in enumerate(("ssld_stage1/b0/seed=0", "ssld_stage2/b0/seed=0")):
        views[run] = tmp_path / f"{place}.png"
        views[run].write_bytes(png(492, 590, place))
    views["finetune/b0/seed=0"] = tmp_path / "gone.png"
    page = build_report(dataclasses.replace(report_inputs, views=views), tmp_path / "out")
    (chapter,) = re.findall(
        r'<section id="curves">.*?</section>', page.read_text(encoding="utf-8"), re.DOTALL
    )
    assert chapter.count("<img") == 2
    for run in views:
        assert f"What the network sees in {run}" in chapter
    assert "four views of it as the recipe of ssld_stage1/b0/seed=0 makes them" in chapter
    assert "views: gone.png does not exist" in chapter
