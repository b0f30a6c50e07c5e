"""The documentation as a site: every link leads somewhere, every page is in the menu."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from project_copies import ROOT

# A page may name other hosts in links, which a person follows; it may not load from them.
LOADS = re.compile(r"<(?:script|img|iframe|link|source)\b[^>]*?\b(?:src|href)=[\"']?(https?:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_no_page_loads_anything_from_another_machine(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    assert [page.name for page in pages if LOADS.search(page.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("page", "link"),
    [
        ("index.html", 'href="own_data.html"'),  # README: docs/own_data.md
        ("index.html", 'href="configuration.html"'),  # README: conf/README.md
        ("own_data.html", 'href="pictures.html"'),
        ("decisions/README.html", 'href="01_reuse_beside_dvc.html"'),
        ("configuration.html", 'href="results/stored_logits.html"'),  # ../docs/results/...
        ("index.html", 'src="images/report.png"'),
    ],
)
def test_links_of_the_repository_are_links_of_the_site(site: Path, page: str, link: str) -> None:
    name = page.replace("README", "index") if not (site / page).is_file() else page
    assert link in (site / name).read_text(encoding="utf-8")


def test_a_link_to_a_source_file_leaves_its_text(site: Path) -> None:
    text = (site / "index.html").read_text(encoding="utf-8")
    assert "Apache-2.0" in text
    assert 'href="LICENSE"' not in text
