"""A weight file opened: a regular file of a size that can be, inside the boundary of its reader."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.foreign import foreign_file

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


def likeness(start: bytes) -> str:
    """What the first bytes of a refused file look like, in words for the end of a message."""
    if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        return " (it looks like a web page: a download that failed?)"
    if start.startswith(b"version https://git-lfs"):
        return " (it is a Git LFS pointer: the file itself was not fetched)"
    if start.startswith(b"PK\x03\x04"):
        return " (it is a zip archive: a PyTorch .pth?)"
    if start.startswith(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"):
        return " (it is a PyTorch file of before 1.6: load it with PyTorch and save it again)"
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd")):
        return " (it is compressed: unpack it first)"
    if start[257:262] == b"ustar":
        return " (it is a tar archive: an inference archive?)"
    if start[8:10] == b'{"':
        return " (it looks like safetensors: give it that suffix)"
    return ""
