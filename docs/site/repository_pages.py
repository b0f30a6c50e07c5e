"""MkDocs hooks: pages that the repository has outside docs/, and links to what has no page.

README.md is the first page of the site and conf/README.md another: each text is in one place.
Links between the pages are rewritten; of a link to a source file the text alone is left.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
# Path in the repository -> page of the site.
PAGES = {
    "README.md": "index.md",
    "conf/README.md": "configuration.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
_SOURCES = {page: source for source, page in PAGES.items()}
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)|(!\[[^\]]*\]\()([^)\s]+)(\))")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite the links of a page; code is left as it is."""
    here = page.file.src_uri
    source = _SOURCES.get(here, f"docs/{here}")
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.M | re.S)
    parts[::2] = [_LINK.sub(lambda found: _link(found, source, here), part) for part in parts[::2]]
    return "".join(parts)


def _link(found: re.Match[str], source: str, here: str) -> str:
    text, target, before, image, after = found.groups()
    if image is not None:
        return f"{before}{_on_site(image, source, here) or image}{after}"
    if re.match(r"[a-z]+:|#", target):
        return found[0]
    there = _on_site(target, source, here)
    return f"[{text}]({there})" if there else text


def _on_site(target: str, source: str, here: str) -> str | None:
    """The link as it is between pages of the site; None where the site has no such page."""
    path, mark, anchor = target.partition("#")
    file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if file in PAGES:
        page = PAGES[file]
    elif file == "docs":
        page = "results/README.md"
    elif file.startswith("docs/") and (ROOT / file).is_file():
        page = file.removeprefix("docs/")
    elif (ROOT / file / "README.md").is_file() and file.startswith("docs/"):
        page = f"{file.removeprefix('docs/')}/README.md"
    else:
        return None
    return posixpath.relpath(page, posixpath.dirname(here) or ".") + mark + anchor
