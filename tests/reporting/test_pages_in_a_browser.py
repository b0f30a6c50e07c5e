from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hgnetv2_pipeline.reporting.build import build_report
from hgnetv2_pipeline.reporting.dataset_page import build_dataset_page
from hgnetv2_pipeline.reporting.inputs import ReportInputs

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "serving"))


@pytest.mark.clients
def test_a_page_fits_every_screen_loads_nothing_and_says_nothing(
    report_inputs: ReportInputs, tmp_path: Path
) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    from client_environment import client_python

    # The longest name that a run may have: it must not push a box or a table off the screen.
    model = f"ssld_stage1/b0/{'run_of_a_very_long_name' * 4}"
    for path in report_inputs.evaluations:
        path.write_text(
            path.read_text(encoding="utf-8").replace("ssld_stage1/b0/seed=0", model), "utf-8"
        )
    assert report_inputs.dataset_summary is not None
    pages = [
        build_report(dataclasses.replace(report_inputs, model=model), tmp_path / "out"),
        build_dataset_page(
            report_inputs.dataset_summary, tmp_path / "dataset.html", dataset="birds", sheets={}
        ),
    ]
    done = subprocess.run(
        [client_python("playwright==1.64.*"), HERE / "open_pages.py", browser, tmp_path, *pages],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    views = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(views) == 4 * len(pages)
    for view in views:
        assert view["width"] <= view["screen"], view
        assert (view["foreign"], view["said"], view["cut"]) == ([], [], 0), view
        assert (view["contents"] == "sticky") == (view["screen"] == 1400), view
    assert all((tmp_path / f"{page.stem}.pdf").stat().st_size > 10_000 for page in pages)
