"""The published table as data, and the download of what it points to. Free of torch.

Figures are percentages on ImageNet-1k's validation set and milliseconds on a V100 (TensorRT 8.5,
FP32, batch 1), as PaddleClas publishes them; ``timm_top1`` is timm's own evaluation of the same
weights at resize 232.
"""

from __future__ import annotations

import fcntl
import http.client
import logging
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hgnetv2_pipeline import durable
from hgnetv2_pipeline.errors import DiskFullError, WeightsError
from hgnetv2_pipeline.exits import full_disk
from hgnetv2_pipeline.progress import SHOWN, Progress
from hgnetv2_pipeline.tar_members import is_header

_log = logging.getLogger(__name__)
_CHUNK = 1 << 20
_BROKEN = (urllib.error.URLError, ConnectionError, TimeoutError)
_BUCKET = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph"


@dataclass(frozen=True)
class ZooEntry:
    """One published weight file. What was not published for exactly these weights is None."""

    name: str
    variant: str
    stage: str
    url: str
    top1: float | None
    top5: float | None
    latency_v100_ms: float | None
    timm_top1: float | None
    resize_short: int  # of the evaluation in the recipe that made the weights
    sha256: str | None = None  # PaddleClas publishes none; ``fetch`` records what it got

    @property
    def filename(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def preprocess(self) -> dict[str, Any]:
        """Fields of ``data.Preprocess`` that are not its defaults."""
        return {"resize_short": self.resize_short}


# variant: top-1, top-5 (stage 2), latency, timm's top-1 of stage 1 and of stage 2
_SEED_TABLE = {
    "b0": (77.77, 93.91, 0.52, 76.87, 77.36),
    "b1": (79.18, 94.57, 0.58, 78.08, 78.88),
    "b2": (81.74, 95.88, 0.95, 80.74, 81.56),
    "b3": (82.98, 96.43, 1.18, 82.59, 82.91),
    "b4": (83.57, 96.72, 1.46, 82.89, 83.70),
    "b5": (84.75, 97.32, 2.84, 84.46, 84.82),
    "b6": (86.30, 97.84, 5.29, 86.05, 86.21),
}
# teacher: file name without its end, top-1, top-5, latency, resize. From PaddleClas's page on
# PP-HGNet and its configs; none of these files is on the seed page. There is no base without SSLD.
# Latencies are those of the English page and of the list of models; the Chinese page has 1.72 and
# 2.46 for tiny and small without SSLD.
_TEACHER_TABLE = {
    "hgnet_tiny.imagenet": ("PPHGNet_tiny", 79.83, 95.04, 1.77, 232),
    "hgnet_tiny.ssld": ("PPHGNet_tiny_ssld", 81.95, 96.12, 1.77, 232),
    "hgnet_small.imagenet": ("PPHGNet_small", 81.51, 95.82, 2.52, 236),
    "hgnet_small.ssld": ("PPHGNet_small_ssld", 83.82, 96.81, 2.52, 236),
    "hgnet_base.ssld": ("PPHGNet_base_ssld", 85.00, 97.35, 5.97, 236),
}
# Trainable parameters with 1000 classes, and multiply-accumulates of one 224 x 224 image
# (convolutions and fc); what ``models.profile`` counts, held equal to it by a test.
COSTS: dict[str, tuple[int, int]] = {
    "b0": (5_996_550, 321_326_464),
    "b1": (6_343_158, 489_387_840),
    "b2": (11_221_356, 1_137_703_680),
    "b3": (16_292_216, 1_770_919_680),
    "b4": (19_796_680, 2_734_148_352),
    "b5": (39_569_064, 6_538_404_864),
    "b6": (75_256_776, 16_840_566_272),
    "hgnet_tiny": (14_735_864, 4_530_447_104),
    "hgnet_small": (24_360_872, 8_508_610_304),
    "hgnet_base": (71_578_184, 25_109_564_352),
}


def _entries() -> list[ZooEntry]:
    entries = []
    weights = f"{_BUCKET}/legendary_models"
    for variant, (top1, top5, latency, timm1, timm2) in _SEED_TABLE.items():
        name = f"PPHGNetV2_{variant.upper()}_ssld"
        second = (top1, top5, latency, timm2, 236)
        for stage, url, figures in (
            ("ssld_stage1", f"{weights}/{name}_stage1_pretrained.pdparams",
             (None, None, latency, timm1, 236)),
            ("ssld_stage2", f"{weights}/{name}_pretrained.pdparams", second),
            ("ssld_stage2_inference", f"{_BUCKET}/inference/{name}_infer.tar", second),
        ):  # fmt: skip
            entries.append(ZooEntry(f"{variant}.{stage}", variant, stage, url, *figures))
    for name, (stem, top1, top5, latency, resize) in _TEACHER_TABLE.items():
        variant, _, stage = name.partition(".")
        url = f"{weights}/{stem}_pretrained.pdparams"
        entries.append(ZooEntry(name, variant, stage, url, top1, top5, latency, None, resize))
    return entries


ZOO: dict[str, ZooEntry] = {entry.name: entry for entry in _entries()}


def weights_file(entry: ZooEntry, root: Path) -> Path | None:
    """Where the file of ``entry`` is below ``root``, or None if it is not there."""
    path = Path(root) / "weights" / entry.filename
    return path if path.is_file() else None


def provide(entry: ZooEntry, root: Path, *, download: bool) -> Path:
    """The file of ``entry`` in ``root/weights``; a missing one is fetched, if ``download`` allows.

    Raises ``WeightsError`` that says how to get it, or what ``fetch`` raises.
    """
    found = weights_file(entry, root)
    if found is not None:
        return found
    folder = Path(root) / "weights"
    if not download:
        raise WeightsError(
            f"the weights {entry.name} are not here: put {entry.filename} into {folder} (from "
            f"{entry.url}), or allow the download with --params download=true"
        )
    return fetch(entry, folder)


def fetch(
    entry: ZooEntry, folder: Path, *, attempts: int = 5, timeout: float = 30.0, pause: float = 1.0
) -> Path:
    """The file of ``entry`` in ``folder``, downloaded unless it is there already.

    A broken connection is taken up again where it broke, ``attempts`` times, with pauses that
    double from ``pause`` seconds; a killed download continues at the next call. The file appears
    under its name only when complete, with its SHA-256 beside it (``<file>.sha256``), which later
    calls check. Raises ``WeightsError`` for a missing file, a web page in its place, a wrong hash.
    """
    folder = Path(folder)
    target = folder / entry.filename
    record = target.with_name(f"{target.name}.sha256")
    if target.exists():
        digest = _checked(target, entry, record)
        if not record.is_file():  # put here by hand: known from now on
            durable.write_text(record, f"{digest}  {target.name}\n")
        return target
    if not entry.url.startswith(("https://", "http://")):
        raise WeightsError(f"{entry.name}: {entry.url} is no web address")
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{entry.filename}.part"
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise WeightsError(f"another process is fetching {target} right now") from None
        try:
            _download(entry, file, attempts, timeout, pause)
        except OSError as error:
            if meaning := full_disk(error, folder):
                raise DiskFullError(f"{meaning} while fetching {target}") from error
            raise
        os.fsync(file.fileno())
        try:
            digest = _checked(part, entry, record)
        except WeightsError:
            _discard(part)
            raise
        part.replace(target)
        _tag(part).unlink(missing_ok=True)
        durable.fsync_directory(folder)
    durable.write_text(record, f"{digest}  {target.name}\n")
    _log.log(SHOWN, "fetched %s, sha256 %s", target, digest)
    return target


def _download(entry: ZooEntry, file: BinaryIO, attempts: int, timeout: float, pause: float) -> None:
    for attempt in range(1, attempts + 1):
        try:
            _continue(entry, file, timeout)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416:  # what we hold is not a beginning of what is there
                file.truncate(0)
            elif error.code < 500 and error.code not in (408, 429):
                raise WeightsError(
                    f"{entry.url}: the server says {error.code} {error.reason}"
                ) from error
            reason: Exception = error
        except (*_BROKEN, http.client.HTTPException) as error:
            reason = error
        if attempt < attempts:
            _log.warning("%s: %s; attempt %d of %d", entry.url, reason, attempt, attempts)
            time.sleep(pause * 2 ** (attempt - 1))
    raise WeightsError(
        f"{entry.url} could not be fetched in {attempts} attempts ({reason}); what arrived is kept "
        f"and the next call continues; or put the file into {Path(file.name).parent} by hand"
    ) from reason


def _continue(entry: ZooEntry, file: BinaryIO, timeout: float) -> None:
    """One request for what is still missing."""
    part = Path(file.name)
    have = file.seek(0, os.SEEK_END)
    request = urllib.request.Request(entry.url)  # noqa: S310 - http or https, checked above
    tag = _tag(part)
    if have and tag.is_file():
        request.add_header("Range", f"bytes={have}-")
        # A file that changed meanwhile comes whole and not in two halves of different files.
        request.add_header("If-Range", tag.read_text())
    with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310
        if response.headers.get_content_type() == "text/html":
            _discard(part)
            raise WeightsError(f"{entry.url} answers with a web page instead of {entry.filename}")
        if response.status != 206 or not _starts_at(response.headers, have):
            file.truncate(0)
            have = 0
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if validator and not validator.startswith("W/"):
            tag.write_text(validator)
        else:
            tag.unlink(missing_ok=True)
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else 0
        with Progress(total, f"fetching {entry.filename}", unit="B", done=have) as progress:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                progress.advance(len(chunk))
        file.flush()
    if length and have < total:
        raise ConnectionError(f"the connection ended after {have:,} of {total:,} bytes")


def _starts_at(headers: Any, have: int) -> bool:
    return str(headers.get("Content-Range", "")).startswith(f"bytes {have}-")


def _tag(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)


def _first_bytes(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def _checked(path: Path, entry: ZooEntry, record: Path) -> str:
    """SHA-256 of a whole weight file; it must be one, and match what is known of it."""
    if entry.url.endswith(".tar"):
        fits = is_header(_first_bytes(path, 512))
    else:
        fits = _first_bytes(path, 1) == b"\x80"  # how every pickle of protocol 2 and up begins
    if not fits:
        raise WeightsError(
            f"{path} from {entry.url} is no weight file (a web page or an error message?)"
        )
    found = durable.sha256_file(path)
    recorded = record.read_text().split() if record.is_file() else []
    expected = entry.sha256 or (recorded[0] if recorded else found)
    if found != expected:
        raise WeightsError(
            f"{entry.filename} has SHA-256 {found}, expected {expected} "
            f"({'the zoo' if entry.sha256 else record}); it may be damaged or have been replaced"
        )
    return found
