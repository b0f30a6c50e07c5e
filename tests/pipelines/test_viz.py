"""Kedro-Viz as a person meets it: one screen, and nothing asked of the network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from viz_server import asked, viz_server

from in_browser import run_in_browser
from project_copies import copy_project, kedro

STAGES = {
    "best", "comparison", "evaluation", "export", "ingestion", "latency", "mining", "prediction",
    "reporting", "ssld_stage1", "ssld_stage2", "train_teacher",
}  # fmt: skip


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server for the project without data; a plugin's command would answer for ours unseen."""
    folder = tmp_path_factory.mktemp("viz")
    with viz_server(copy_project(folder / "project"), folder / "log") as found:
        yield found


def test_the_server_looks_up_no_newer_version(address: str) -> None:
    found = asked(f"{address}/api/version")
    assert found == {**found, "is_outdated": False, "latest": found["installed"]}


def test_its_page_fetches_nothing_from_elsewhere(address: str) -> None:
    page = urlopen(address).read().decode()  # noqa: S310
    assert not re.findall(r'(?:src|href)="(?:https?:)?//[^"]*', page)
    assert "default-src 'self'" in page


def test_collapsed_it_shows_the_stages_and_what_goes_from_one_to_another(address: str) -> None:
    found = asked(f"{address}/api/main")
    children = found["modular_pipelines"]["__root__"]["children"]
    shown: dict[str, set[str]] = {}
    names = {node["id"]: node["name"] for node in found["nodes"]}
    for child in children:
        shown.setdefault(child["type"], set()).add(names[child["id"]])
    assert shown["modularPipeline"] == STAGES
    into = {(names[edge["source"]], edge["target"]) for edge in found["edges"]}
    assert shown["data"] == {
        name for name, stage in into if stage in STAGES - {name.partition(".")[0]} and "." in name
    }
    assert "mining.sheet" in names.values() and "mining.sheet" not in shown["data"]


@pytest.mark.slow
def test_a_built_site_is_as_the_server(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    kedro(project, "viz", "build")
    page = (project / "build/index.html").read_text()
    assert "types=nodes" in page and "googleapis" not in page
    version = json.loads((project / "build/api/version").read_text())
    assert not version["is_outdated"]


@pytest.mark.clients
def test_in_a_browser_it_opens_on_stages_that_can_be_read(address: str, tmp_path: Path) -> None:
    seen: dict[str, Any]
    [seen] = run_in_browser("kedro_viz", address, tmp_path)
    assert seen["foreign"] == [] and seen["errors"] == []
    assert {label.replace(" ", "_") for label in seen["labels"]} == STAGES
    assert seen["outside"] == [] and seen["letter_height"] >= 8
    assert not seen["banner"]
