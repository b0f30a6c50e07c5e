"""Every page that people get, in a browser: on a desk and a telephone, light, dark and on paper."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from filled_networks import Filled, filled  # noqa: F401 - a fixture
from hgnetv2_pipeline.deployment.export.bundle import write_bundle
from hgnetv2_pipeline.reporting.build import build_report
from hgnetv2_pipeline.reporting.dataset_page import build_dataset_page
from hgnetv2_pipeline.reporting.inputs import ReportInputs
from hgnetv2_pipeline.reporting.sweep_page import build_sweep_page
from in_browser import run_in_browser
from project_copies import ROOT

sys.path.insert(0, str(ROOT / "tests" / "reporting"))
sys.path.insert(0, str(ROOT / "tests" / "serving"))
from review_cases import review_server, some_session
from serving_cases import CLASSES, SIDE, picture, running
from synthetic_inputs import CLASSES as NAMES
from synthetic_inputs import dataset_summary, png, write_inputs
from test_mining_page import build as build_mining
from test_multi_label_report import result as several_labels
from test_sweep_page import LEVEL, row, sweep

VIEWS = ["1400 light", "390 light", "1400 dark", "390 dark", "print"]


def whole_report(folder: Path) -> Path:
    """With all chapters, and the longest name that a run may have."""
    inputs, model = write_inputs(folder / "in"), f"ssld_stage1/b0/{'run_of_a_very_long_name' * 4}"
    for path in inputs.evaluations:
        path.write_text(path.read_text("utf-8").replace("ssld_stage1/b0/seed=0", model), "utf-8")
    return build_report(dataclasses.replace(inputs, model=model), folder)


def multi_label_report(folder: Path) -> Path:
    value = several_labels("train/b0/seed=0")
    (folder / "0.json").write_text(json.dumps(value), encoding="utf-8")
    return build_report(
        ReportInputs(dataset="mine", root=folder, evaluations=(folder / "0.json",)), folder
    )


def dataset_page(folder: Path) -> Path:
    """Of the summary that the sample has, with a contact sheet."""
    summary, sheet = folder / "summary.json", folder / "sheet.png"
    summary.write_text(json.dumps(dataset_summary()), encoding="utf-8")
    sheet.write_bytes(png(900, 300))
    sheets = {"Images of train by class": sheet}
    return build_dataset_page(summary, folder / "page.html", dataset="birds", sheets=sheets)


def mining_page(folder: Path) -> Path:
    build_mining(folder / "mined", NAMES)
    return folder / "mined" / "page.html"


def sweep_page(folder: Path) -> Path:
    table: dict[str, Any] = sweep(
        *LEVEL, row("b2", 0.93, 7.2), row("b4", None, None),
        row("b0", 0.88, 2.1, name="b0 at 160 px int8", size=160, precision="int8"),
        used=LEVEL[0]["name"], leader=LEVEL[1]["name"], fastest=LEVEL[0]["name"],
    )  # fmt: skip
    return build_sweep_page(table, folder / "sweep.html")


FILES: dict[str, Callable[[Path], Path]] = {
    "report": whole_report,
    "report of several labels": multi_label_report,
    "report of nothing yet": lambda folder: build_report(ReportInputs(dataset="mine"), folder),
    "dataset": dataset_page,
    "mining": mining_page,
    "sweep": sweep_page,
}


def assert_no_fault(views: list[dict[str, Any]]) -> None:
    assert [view["view"] for view in views] == VIEWS
    assert {view["view"]: view["faults"] for view in views if view["faults"]} == {}


@pytest.mark.clients
@pytest.mark.parametrize("name", FILES)
def test_a_page_is_whole_legible_and_quiet_on_every_screen_and_on_paper(
    name: str, tmp_path: Path
) -> None:
    page = FILES[name](tmp_path)
    views = run_in_browser("open_pages", tmp_path, page.as_uri())
    assert_no_fault(views)
    for view in views[:-1]:  # the contents stay in view where there is room for them
        assert (view["contents"] == "sticky") == view["view"].startswith("1400"), view
    assert views[-1]["pages"] >= 1 and views[-1]["marks"] >= 1


@pytest.mark.clients
def test_the_page_of_a_review_is(tmp_path: Path) -> None:
    with review_server(some_session(tmp_path)) as address:
        assert_no_fault(run_in_browser("open_pages", tmp_path, address))


@pytest.fixture(scope="module")
def server(filled: Filled, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:  # noqa: F811
    """The address of ``hgnetv2 serve``."""
    folder = tmp_path_factory.mktemp("server")
    write_bundle(filled("b0", len(CLASSES)), folder / "b0", image_size=SIDE, class_names=CLASSES)
    with running(folder, f"m={folder / 'b0'}") as one:
        yield f"http://{one.http}/"


@pytest.mark.clients
@pytest.mark.parametrize("given", ["nothing", "picture", "text"])
def test_the_page_of_the_server_is_before_and_after_an_answer(
    server: str, given: str, tmp_path: Path
) -> None:
    file = tmp_path / "given"
    file.write_bytes({"picture": picture(size=(200, 150)), "text": b"no picture"}.get(given, b""))
    address = server if given == "nothing" else f"{server}#give={file}"
    views = run_in_browser("open_pages", tmp_path, address)
    refused = (
        "says Failed to load resource: the server responded with a status of 400 (Bad Request)"
    )
    if given == "text":  # what it says of a file that is none is its answer
        for view in views:
            view["faults"] = [fault for fault in view["faults"] if fault != refused]
    assert_no_fault(views)


@pytest.mark.clients
def test_the_checks_find_each_fault(tmp_path: Path) -> None:
    """A page that has them all: no check passes because it sees nothing."""
    page = tmp_path / "faulty.html"
    shutil.copy(ROOT / "tests" / "browser" / "faulty.html", page)
    desk, *_, paper = run_in_browser("open_pages", tmp_path, page.as_uri())
    wanted = [
        "Tab reaches 3 of 3; missed [], order [1, 0, 2]", "asks for http://127.0.0.1:9/elsewhere.png",
        "keys do not open the fold", "no focus is seen on <a", "rect rgb(221, 221, 221)",
        "says chatter", "says thrown", 'svg "clipped" is cut', "is cut at the edge of",
        'text "on black" of svg "chart" has contrast', "overlap in", "is 5.0 pixels high",
        'text p "pale words" has contrast', "the page is 2",
    ]  # fmt: skip
    for start in wanted:
        assert [fault for fault in desk["faults"] if start in fault], (start, desk["faults"])
    for start in ("Qfold0 is not printed", "is split over pages", "text is cut at the right"):
        assert [fault for fault in paper["faults"] if start in fault], (start, paper["faults"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation as ``make docs`` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


@pytest.mark.clients
@pytest.mark.parametrize(
    "page", ["index", "first_hour", "parameters", "review", "results/sample", "decisions/index"]
)
def test_a_page_of_the_documentation_is(site: Path, page: str, tmp_path: Path) -> None:
    assert_no_fault(run_in_browser("open_pages", tmp_path, (site / f"{page}.html").as_uri()))
