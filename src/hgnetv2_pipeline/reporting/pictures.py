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


def embed(
    paths: Sequence[Path], what: str, ledger: FileLedger, *, budget: int = BUDGET
) -> list[Picture | Notice]:
    """Each picture as it is where its share of ``budget`` allows, else smaller and said so."""
    share = budget // max(1, len(paths))
    found: list[Picture | Notice] = []
    for path in paths:
        try:
            found.append(_picture(ledger.existing(path, what), what, share, ledger.shown(path)))
        except AbsentError as error:
            found.append(Notice(str(error), kind="warning"))
    return found


def _picture(path: Path, what: str, share: int, shown: str) -> Picture:
    raw = path.read_bytes()
    kind = next((kind for magic, kind in _MAGIC.items() if raw.startswith(magic)), None)
    if kind is None:
        raise AbsentError(f"{what}: {shown} is neither PNG nor JPEG")
    title = path.stem.replace("_", " ").replace("-", " ")
    caption = f"{what}: {title}"
    if len(raw) > share:
        raw, kind = _smaller(raw, share, what, shown), "image/jpeg"
        caption += f" (made smaller for this page; in full: {shown})"
    return Picture(f"data:{kind};base64,{base64.b64encode(raw).decode()}", caption, shown)


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
