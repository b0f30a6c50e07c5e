"""The map of the source files: what each is for, in the first words of its docstring.

python tests/file_map.py            write it into docs/architecture.md again
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "hgnetv2_pipeline"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- file map: python tests/file_map.py -->", "<!-- end of the file map -->"


def first_words(path: Path) -> str:
    """The first paragraph of a module's docstring, on one line; '' where it has none."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def file_map() -> str:
    """A table for each folder, the package's own files first."""
    parts = []
    for folder in sorted({path.parent for path in PACKAGE.rglob("*.py")}):
        files = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
        if not files:
            continue
        name = folder.relative_to(PACKAGE.parent).as_posix()
        about = first_words(folder / "__init__.py")
        parts.append(f"### `{name}`\n{about}\n" if about else f"### `{name}`\n")
        rows = [f"| `{path.name}` | {first_words(path)} |" for path in files]
        parts.append("\n".join(["| file | |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def page() -> str:
    """docs/architecture.md with the map as it is now."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n\n{file_map()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
