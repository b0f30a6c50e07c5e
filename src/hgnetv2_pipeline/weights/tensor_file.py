"""A weight file opened: a regular file of a size that can be, inside the boundary of its reader.

What kind of file it is, its first bytes say; its name counts only where they say nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal

from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.foreign import foreign_file

Kind = Literal["torch", "pickle", "safetensors", "tar", "unknown"]
"""PyTorch's checkpoint; a plain pickle, as Paddle writes; safetensors; an inference archive."""
SUFFIXES = {
    ".pdparams": "pickle", ".safetensors": "safetensors", ".pth": "torch", ".pt": "torch",
    ".ckpt": "torch", ".bin": "torch", ".tar": "tar", ".pdiparams": "unknown",
}  # fmt: skip
"""How names of weight files end, and what such a file is where its first bytes do not say."""
_ZIP, _LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
_MAX_FILE = 4 << 30  # the largest of our networks with two moments and master weights needs 1.2 GB


@contextmanager
def open_weight_file(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """The file and its size in bytes, for reading; whatever goes wrong is a ``WeightsError``.

    A pipe or a device, which could keep us waiting, is no weight file.
    """
    with foreign_file(path, WeightsError):
        if not path.is_file():
            raise WeightsError(f"there is no weight file at {path}")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise WeightsError(f"{path} is empty: a download that failed?")
            if size > _MAX_FILE:
                raise WeightsError(
                    f"{path} is {size:,} bytes long; weights of these networks are under "
                    f"{_MAX_FILE:,}"
                )
            yield file, size


def kind_of(path: Path) -> Kind:
    """What the file at ``path`` is by its first bytes, else by its name. Refuses nothing."""
    start = b""
    if path.is_file():
        with suppress(OSError), path.open("rb") as file:
            start = file.read(512)
    if start.startswith((_ZIP, _LEGACY)):
        return "torch"
    # The length of a header can begin as a pickle does (640 is 80 02); no pickle is zero there.
    if start[8:9] == b"{" and not any(start[4:8]):
        return "safetensors"
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04"):
        return "pickle"
    if start[8:9] == b"{":
        return "safetensors"
    if start[257:262] == b"ustar":
        return "tar"
    return SUFFIXES.get(path.suffix, "unknown")  # type: ignore[return-value]


def likeness(start: bytes) -> str:
    """What the first bytes of a refused file look like, in words for the end of a message."""
    if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        return " (it looks like a web page: a download that failed?)"
    if start.startswith(b"version https://git-lfs"):
        return " (it is a Git LFS pointer: the file itself was not fetched)"
    if start.startswith(_ZIP):
        return " (it is a zip archive: a PyTorch .pth?)"
    if start.startswith(_LEGACY):
        return " (it is a PyTorch file of before 1.6)"
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd")):
        return " (it is compressed: unpack it first)"
    if start[257:262] == b"ustar":
        return " (it is a tar archive: an inference archive?)"
    if start[8:10] == b'{"':
        return " (it looks like safetensors)"
    return ""
