"""Opening a file that a user names: a regular one, or a reason. A pipe or device never blocks."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hgnetv2_pipeline.errors import DataError

NOT_REGULAR = "not a regular file"


def open_regular(path: Path) -> BinaryIO:
    """The file, open for reading.

    Raises:
        OSError: as ``open`` does; for what is neither file nor folder with ``NOT_REGULAR``.
    """
    # Windows has no pipes among its files, and reads bytes only where it is asked to.
    flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, os.O_RDONLY | flags)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, NOT_REGULAR, str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


@contextmanager
def open_or_refuse(path: Path, what: str) -> Iterator[BinaryIO]:
    """The file, open for reading; ``what`` it should be is named if it is not ("list").

    Raises:
        DataError: it is missing, no regular file, or cannot be read to its end.
    """
    try:
        with open_regular(path) as file:
            yield file
    except FileNotFoundError as error:
        raise DataError(f"{path}: the {what} is missing") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: a directory, not a {what}") from error
    except OSError as error:
        raise DataError(f"{path}: the {what} cannot be read: {error.strerror or error}") from error
