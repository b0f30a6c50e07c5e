"""What a user names to be answered, as a list of images in order: files, folders, tars, lists."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.data.formats import (
    READABLE,
    claims_picture,
    head_of,
    is_passed_over,
    looks_like_picture,
)
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.progress import SHOWN

_log = logging.getLogger(__name__)

LIST_SUFFIXES = frozenset((".txt", ".lst"))
_GLOB_SIGNS = frozenset("*?[")
# This could begin a path; what follows, a size in four bytes and then zeros, cannot.
_BMP, _BMP_RESERVED = b"BM", b"\0\0\0\0"


@dataclass(frozen=True)
class Span:
    """An image inside an archive: where its bytes are."""

    path: Path
    offset: int
    length: int


@dataclass(frozen=True)
class RefusedInput:
    """An input that cannot be read at all, with the reason."""

    reason: str


@dataclass(frozen=True)
class ImageInput:
    """One thing to classify: the name its row bears, and a path, a span of an archive, encoded
    bytes, a PIL image, or why there is none.
    """

    name: str
    source: Any

    def __post_init__(self) -> None:
        # A file's name may be any bytes; what is not UTF-8 is written \xe9, as ls does: no table,
        # terminal or JSON takes it as it is.
        shown = os.fsencode(self.name).decode("utf-8", "backslashreplace")
        object.__setattr__(self, "name", shown)


def expand_inputs(inputs: Any, *, root: Path | None = None) -> list[ImageInput]:
    """Every image that ``inputs`` stands for, in order.

    A folder gives its images and those of its archives (recursively, sorted by path), a plain tar
    its members as ``archive.tar!member``, a list file (.txt, .lst: one path per line, with or
    without a label, # for a remark) its lines, relative to ``root`` or else to the list's folder, a
    glob its sorted matches, anything else itself; a sequence gives those of its members. A missing
    file is kept, so that its row can say so. DataError when a folder, tar, list or glob is empty.
    """
    if isinstance(inputs, ImageInput):
        return [inputs]
    if isinstance(inputs, (list, tuple)):
        return [one for member in inputs for one in expand_inputs(member, root=root)]
    if not isinstance(inputs, (str, Path)):
        return [ImageInput("<bytes>" if isinstance(inputs, bytes) else "<image>", inputs)]
    path = Path(inputs)
    if answers(path.is_dir):
        found = _folder(path)
    elif path.suffix.lower() in LIST_SUFFIXES:
        found = _list_file(path, root)
    elif path.suffix.lower() == ".tar" and answers(path.is_file):
        found = _archive(path)
    elif not answers(path.exists) and _GLOB_SIGNS & set(str(path)):
        names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - absolute patterns too
        found = [ImageInput(name, Path(name)) for name in names if not answers(Path(name).is_dir)]
    else:
        # The name is printed as given: './a.jpg' stays './a.jpg'.
        return [ImageInput(str(inputs), path)]
    if not found:
        raise DataError(
            f"nothing to predict in {inputs}: a folder or tar needs image files "
            f"({READABLE}), a list has at least one line, a glob matches something"
        )
    return found


def from_stream(content: bytes, *, root: Path | None = None) -> list[ImageInput]:
    """What came through a pipe: the bytes of one image, named ``-``, or paths, one per line.

    The lines are as in a list file, relative to ``root`` or else to the current folder. DataError
    when there is nothing, or neither of the two.
    """
    if _is_image(content):
        return [ImageInput("-", content)]
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            "standard input (-) is neither an image nor paths in UTF-8, one per line"
        ) from error
    found = _listed(text, Path() if root is None else Path(root))
    if not found:
        raise DataError("nothing to predict on standard input (-): an image, or a path per line")
    return found


def _is_image(content: bytes) -> bool:
    if content.startswith(_BMP):
        return content[6:10] == _BMP_RESERVED
    return looks_like_picture(content)


def _folder(folder: Path) -> list[ImageInput]:
    found: list[ImageInput] = []
    others = 0

    def unlisted(error: OSError) -> None:
        reason = f"the folder cannot be read: {error.strerror or error}"
        found.append(ImageInput(str(error.filename), RefusedInput(reason)))

    every: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=unlisted):
        folders[:] = [name for name in folders if not is_passed_over(name)]
        for name in folders:
            path = Path(place, name)
            if path.is_symlink():
                _log.warning(
                    "%s is a link to a folder and was not entered; name it to answer it", path
                )
        every += [Path(place, name) for name in names if not is_passed_over(name)]
    for path in sorted(every):
        # Whether it is there, a file and an image is seen when it is read, and reported in its row.
        if path.suffix.lower() == ".tar":
            found += _archive(path)
        elif claims_picture(path.name, partial(head_of, path)):
            found.append(ImageInput(str(path), path))
        else:
            others += 1
    if others:
        _log.log(SHOWN, "%s: %d files that are no images are left out", folder, others)
    return found


def _archive(path: Path) -> list[ImageInput]:
    """The images of a plain tar, in its order; what of it cannot be read, with the reason."""
    from hgnetv2_pipeline.data.scan.archives import index_archive

    try:
        index = index_archive(path)
    except DataError as error:
        return [ImageInput(str(path), RefusedInput(str(error)))]
    members = [member for member in index.members if _claims_image(member.name)]
    if len(members) < len(index.members):
        others = len(index.members) - len(members)
        _log.log(SHOWN, "%s: %d files that are no images are left out", path, others)
    refused = [
        ImageInput(f"{path}!{key}", RefusedInput(reason))
        for key, name, reason in index.refused
        if not name or _claims_image(name) or name.lower().endswith(".tar")
    ]
    spans = [ImageInput(f"{path}!{m.name}", Span(path, m.offset, m.length)) for m in members]
    return spans + refused


def _claims_image(name: str) -> bool:
    """Whether a member of an archive does, by the rules of training."""
    return claims_picture(name, lambda: b"") and not any(map(is_passed_over, name.split("/")))


def _list_file(path: Path, root: Path | None) -> list[ImageInput]:
    from hgnetv2_pipeline.data.regular import open_or_refuse

    with open_or_refuse(path, "list") as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    return _listed(text, path.parent if root is None else Path(root))


def _listed(text: str, base: Path) -> list[ImageInput]:
    found = []
    for line in map(str.strip, text.splitlines()):
        if not line or line.startswith("#"):
            continue
        name, _, label = line.rpartition(" ")
        # A name may hold spaces, so only a last field that is a number counts as a label.
        if not name or not label.isdecimal() or answers((base / line).is_file):
            name = line
        found.append(ImageInput(name.strip(), base / name.strip()))
    return found


def answers(question: Callable[[], bool]) -> bool:
    """``path.is_file`` and its like, where a name too long or a closed folder is a no."""
    try:
        return question()
    except (OSError, ValueError):
        return False
