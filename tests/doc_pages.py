"""The pages of the documentation, taken apart: what is code and what is text."""

from __future__ import annotations

from pathlib import Path


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
    found, _ = fenced(page.read_text(encoding="utf-8"))
    return [text for language, text in found if language in languages]
