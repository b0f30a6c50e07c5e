r"""Which change of a list's paths would find the files that are missing: tried, and said, not made.

Lists come from other machines: with ``\`` for ``/``, from one folder further up or down, or without
the endings of the files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote

_TRIED = 500
"""Missing files that are tried, spread over all of them."""
_FOLDERS = 50
_ENDINGS = ("jpg", "png", "jpeg", "JPG", "JPEG")


@dataclass(frozen=True)
class _Change:
    """A change of every path: in words, as a function, and the command or parameters that make it.

    ``apply`` gives None where a path cannot be changed so.
    """

    words: str
    apply: Callable[[str], str | None]
    remedy: str


def what_would_fit(path: Path, missing: Sequence[str], root: Path) -> str:
    """A sentence on the change that finds most of the ``missing`` files; empty where none does.

    Args:
        path: the list, for the command that changes it.
        missing: paths below ``root`` of which no file is there.
    """
    some = missing[:: max(1, len(missing) // _TRIED + 1)][:_TRIED]
    place = Path(os.path.realpath(root))
    best: tuple[int, str, str] | None = None
    for change in _changes(path, some, place):
        changed = [change.apply(name) for name in some]
        fits = sum(name is not None and (place / name).is_file() for name in changed)
        if fits and (best is None or fits > best[0]):
            best = fits, change.words, change.remedy
        if fits == len(some):
            break
    if best is None:
        return ""
    fits, words, remedy = best
    tried = f"{len(some):,} missing files" if len(some) == len(missing) else f"{len(some):,} tried"
    return f"; {words} {fits:,} of {tried} would be found: {remedy}"


def _changes(path: Path, some: Sequence[str], root: Path) -> Iterator[_Change]:
    """The changes worth a try, the simplest first."""
    listed = quote(str(path))
    backslashes = any("\\" in name for name in some)
    slashes: Callable[[str], str] = lambda name: name.replace("\\", "/")  # noqa: E731
    turned = r"s#\\#/#g" if backslashes else ""
    said = r"with / for \ " if backslashes else ""
    if backslashes:
        yield _Change(said.rstrip(), slashes, f"sed -i '{turned}' {listed}")
    first = {slashes(name).partition("/")[0] for name in some}
    if len(first) == 1 and (folder := first.pop()) and any("/" in slashes(name) for name in some):

        def shorter(name: str) -> str | None:
            before, found, rest = slashes(name).partition("/")
            return rest if found and before == folder else None

        if folder == root.name and not backslashes:
            remedy = _elsewhere(root.parent, path.parent)
        else:
            remedy = f"sed -i '{turned and turned + ';'}s#^{folder}/##' {listed}"
        yield _Change(f"{said}without the leading {folder}/", shorter, remedy)
    for folder in _subfolders(root):
        yield _Change(
            f"{said}below {folder}/",
            lambda name, folder=folder: f"{folder}/{slashes(name)}",  # type: ignore[misc]
            f"sed -i '{turned}' {listed}, and " * backslashes
            + _elsewhere(root / folder, path.parent),
        )
    for folder in ("", *_subfolders(root)):
        place = f", and {_elsewhere(root / folder, path.parent)}" if folder else ""
        for ending in _ENDINGS:
            yield _Change(
                f"below {folder}/ with .{ending} added" if folder else f"with .{ending} added",
                partial(_with_ending, folder, ending),
                f"write the paths with their endings{place}",
            )


def _with_ending(folder: str, ending: str, name: str) -> str:
    return f"{folder}/{name}.{ending}" if folder else f"{name}.{ending}"


def _elsewhere(root: Path, lists: Path) -> str:
    """How to say that images and lists are in different folders."""
    lists = Path(os.path.realpath(lists))
    return (
        f"set data.root: {root} and data.list_root: {lists} "
        f"(hgnetv2 init NAME --labelled {quote(str(root))} --lists {quote(str(lists))})"
    )


def _subfolders(root: Path) -> list[str]:
    """Folders below ``root``, one and two deep, that may be what the paths are relative to."""
    found: list[str] = []
    for depth in ("*", "*/*"):
        for place in sorted(root.glob(depth)):
            if place.is_dir() and not place.name.startswith("."):
                found.append(place.relative_to(root).as_posix())
            if len(found) >= _FOLDERS:
                return found
    return found
