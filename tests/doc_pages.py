"""The pages of the documentation, taken apart: what is code and what is text."""

from __future__ import annotations

from pathlib import Path

import nbformat


def page_text(page: Path) -> str:
    """A page as Markdown; of a notebook its text, and its code and shell cells as blocks."""
    if page.suffix != ".ipynb":
        return page.read_text(encoding="utf-8")
    found = []
    for cell in nbformat.read(page, as_version=4).cells:
        source = cell.source
        if cell.cell_type == "code":
            shell = source.startswith("%%bash")
            source = source.partition("\n")[2] if shell else source
            source = f"```{'sh' if shell else 'python'}\n{source}\n```"
        found.append(source)
    return "\n\n".join(found)


def fenced(text: str) -> tuple[list[tuple[str, str]], str]:
    """The fenced blocks of a page, each with its language, and the text outside of them."""
    found: list[tuple[str, str]] = []
    outside: list[str] = []
    inside: list[str] | None = None
    for line in text.splitlines():
        if not line.startswith("```"):
            (outside if inside is None else inside).append(line)
        elif inside is None:
            language, inside = line[3:], []
        else:
            found.append((language, "\n".join(inside)))
            inside = None
    assert inside is None, "a block is not closed"
    return found, "\n".join(outside)


def blocks(page: Path, *languages: str) -> list[str]:
    found, _ = fenced(page_text(page))
    return [text for language, text in found if language in languages]
