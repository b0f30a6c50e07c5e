"""What DVC shows of a run: plots that load nothing, and metrics that fit a terminal."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from hgnetv2_pipeline.durable import write_json
from hgnetv2_pipeline.project.mining.auditing import SHEETS
from hgnetv2_pipeline.reporting.inputs import ReportInputs
from hgnetv2_pipeline.reporting.plots import METRICS, PLOTS, write_metrics, write_plots
from in_browser import run_in_browser
from project_copies import ROOT
from test_dvc_stages import dvc

sys.path.insert(0, str(ROOT / "tests" / "reporting"))
from synthetic_inputs import evaluation, png, write_inputs

MODEL = "best/b0/seed=0"
CANDIDATES = [("stage2", "SSLD stage 2", 0.95), ("supervised", "supervised only", 0.91)]


def inputs_of(folder: Path) -> ReportInputs:
    """Whatever a report may show, with a model that was chosen and evaluated."""
    inputs = write_inputs(folder)
    candidates = [
        {"run": f"{arm}/b0/seed=0", "arm": arm, "label": label, "value": value}
        for arm, label, value in CANDIDATES
    ]
    used = candidates[0]["run"]
    choice = {"model": MODEL, "used": used, "leader": used, "metric": "top1", "n": 700,
              "candidates": candidates}  # fmt: skip
    answers = [
        write_json(folder / f"{split}.json", evaluation(MODEL, hits, split=split, engine="torch"))
        for split, hits in (("test", 600), ("val", 650))
    ]
    return dataclasses.replace(
        inputs, model=MODEL, evaluations=(*inputs.evaluations, *answers),
        own={**inputs.own, "choice": write_json(folder / "choice.json", choice)},
    )  # fmt: skip


def words(path: Path) -> list[str]:
    """The texts of a drawing; that it is one, and refers to nothing outside of it."""
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"<script|href|url\(|@import|<image|<foreignObject", text)
    assert {*re.findall(r"\w+://[^\"]*", text)} == {"http://www.w3.org/2000/svg"}
    texts = (each.text or "" for each in ElementTree.fromstring(text).iter())  # noqa: S314
    return [said for said in texts if said.strip()]


def test_every_plot_has_its_title_and_data_and_refers_to_nothing(tmp_path: Path) -> None:
    write_plots(inputs_of(tmp_path / "in"), "val", tmp_path / "out")
    shown = {name: words(tmp_path / "out" / name) for name in PLOTS}
    assert {"Learning curves", "images seen"} <= {*shown["learning_curves.svg"]}
    assert {label for _, label, _ in CANDIDATES} <= {*shown["arms.svg"]}
    assert "top-1 on 700 val images, %" in shown["arms.svg"]
    assert f"Confusion of {MODEL} on val" in shown["confusion.svg"]
    right = sum(int(count) for count in shown["confusion.svg"] if count.isdigit())
    assert right == 700
    assert "Purity of the mined list by k" in shown["purity.svg"]


def test_what_is_missing_is_a_sentence_in_its_plot(tmp_path: Path) -> None:
    write_plots(ReportInputs(dataset="mine", model=MODEL), "val", tmp_path / "out")
    for name in PLOTS:
        title, said = words(tmp_path / "out" / name)
        assert title and len(said) > 20, name
    write_metrics(ReportInputs(dataset="mine", model=MODEL), "val", tmp_path / METRICS)
    assert json.loads((tmp_path / METRICS).read_text()) == {}


@pytest.mark.parametrize(("split", "top1"), [("val", 0.929), ("test", 0.857)])
def test_the_metrics_are_those_of_the_model_on_its_set(
    tmp_path: Path, split: str, top1: float
) -> None:
    inputs = inputs_of(tmp_path / "in")
    write_metrics(inputs, split, tmp_path / METRICS)
    found = json.loads((tmp_path / METRICS).read_text())
    assert (found["top1"], found["gain"]) == (top1, 4.0)
    audit = json.loads(inputs.mining_audit.read_text()) if inputs.mining_audit else {}
    assert found["mined"] == audit["selected"]
    assert found["purity"] == round(audit["estimate"]["estimate"], 3)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project of DVC with the plots and metrics of dvc.yaml, as a finished run leaves them."""
    project = tmp_path_factory.mktemp("dvc")
    shutil.copy(ROOT / "dvc.yaml", project)
    shutil.copytree(ROOT / "conf", project / "conf", ignore=shutil.ignore_patterns("local"))
    (project / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", project / ".dvc")
    (project / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    report = project / "data" / "08_reporting" / "sample"
    inputs = inputs_of(project / "in")
    write_plots(inputs, "val", report / "plots")
    write_metrics(inputs, "val", report / METRICS)
    for name in SHEETS:
        sheet = report / "mining" / "mixed" / name
        sheet.parent.mkdir(parents=True, exist_ok=True)
        sheet.write_bytes(png(40, 20))
    dvc(project, "plots", "show", "-o", "plots")
    yield project


def test_the_page_of_the_plots_loads_nothing_from_elsewhere(shown: Path) -> None:
    text = (shown / "plots" / "index.html").read_text(encoding="utf-8")
    assert "//" not in text and "<script" not in text
    pictures = re.findall(r'<img src="([^"]+)"', text)
    assert len(pictures) == len(PLOTS) + len(SHEETS)
    assert all((shown / "plots" / picture).is_file() for picture in pictures)


def test_every_plot_of_dvc_is_a_picture() -> None:
    """Of anything else, a folder too, DVC makes a drawing by scripts of a public server."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    plots = [name for stage in stages.values() for out in stage.get("plots", ()) for name in out]
    assert {Path(name).suffix for name in plots} == {".svg", ".png"}


def test_the_metrics_are_one_line_of_eighty_columns(shown: Path) -> None:
    said = dvc(shown, "metrics", "show")
    lines = said.splitlines()
    assert len(lines) == 2 and max(map(len, lines)) <= 80, said
    assert lines[0].split() == ["Path", "ece", "gain", "mined", "purity", "top1"]


@pytest.mark.clients
def test_a_browser_shows_every_plot_and_asks_for_nothing_that_is_not_here(shown: Path) -> None:
    page = shown / "plots" / "index.html"
    views = run_in_browser("open_pages", shown, page.as_uri())
    for view in views:
        elsewhere = [fault for fault in view["faults"] if fault.startswith(("asks for", "says"))]
        assert elsewhere == [] and view["pictures"] == len(PLOTS) + len(SHEETS)
