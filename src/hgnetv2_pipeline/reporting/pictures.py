"""Contact sheets as data URIs, small enough that the whole page stays easy to send."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from hgnetv2_pipeline.reporting.blocks import Notice, Picture
from hgnetv2_pipeline.reporting.inputs import AbsentError, FileLedger

BUDGET = 1_200_000  # bytes of all pictures of a report together, before base64
_MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def data_uri(path: Path, what: str, ledger: FileLedger) -> str:
    """A small PNG or JPEG as it is, not noted as a source: the file that names it is.

    Raises:
        AbsentError: it is not there, or is neither.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise AbsentError(f"{what}: {ledger.shown(path)} cannot be read: {error}") from error
    return _uri(raw, _kind(raw, f"{what}: {ledger.shown(path)}"))


def _kind(raw: bytes, what: str) -> str:
    kind = next((kind for magic, kind in _MAGIC.items() if raw.startswith(magic)), None)
    if kind is None:
        raise AbsentError(f"{what} is neither PNG nor JPEG")
    return kind


def _uri(raw: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}"


def embed(
    paths: Sequence[Path], what: str, ledger: FileLedger, *, budget: int = BUDGET
) -> list[Picture | Notice]:
    """Each picture under the caption ``what``, as it is where its share of ``budget`` allows, else
    smaller and said so.
    """
    share, name = budget // max(1, len(paths)), what.partition(". ")[0]
    found: list[Picture | Notice] = []
    for path in paths:
        try:
            found.append(_picture(ledger.existing(path, name), what, share, ledger.shown(path)))
        except AbsentError as error:
            found.append(Notice(str(error), kind="warning"))
    return found


def _picture(path: Path, what: str, share: int, shown: str) -> Picture:
    raw = path.read_bytes()
    kind = _kind(raw, f"{what}: {shown}")
    caption = what
    if len(raw) > share:
        raw, kind = _smaller(raw, share, what, shown), "image/jpeg"
        caption += f" (made smaller for this page; in full: {shown})"
    return Picture(_uri(raw, kind), caption, shown)


def _smaller(raw: bytes, share: int, what: str, shown: str) -> bytes:
    """A JPEG of at most ``share`` bytes: narrower and narrower, as wide as fits."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(raw), formats=("PNG", "JPEG")) as opened:
            image = opened.convert("RGB")
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        raise AbsentError(f"{what}: {shown} cannot be decoded: {error}") from error
    width = min(image.width, 1400)
    while True:
        scaled = image.resize(
            (width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS
        )
        buffer = io.BytesIO()
        scaled.save(buffer, "JPEG", quality=80, optimize=True)
        if buffer.tell() <= share or width <= 64:
            return buffer.getvalue()
        width = int(width * 0.8)
