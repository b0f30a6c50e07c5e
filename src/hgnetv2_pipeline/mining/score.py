"""The teacher's pass over the pool: one decode an image gives its scores and its hashes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from hgnetv2_pipeline import data
from hgnetv2_pipeline.data.index import images_hash
from hgnetv2_pipeline.data.perceptual import phash64
from hgnetv2_pipeline.errors import DataError, Interrupted, ParameterError
from hgnetv2_pipeline.mining.ensemble import Ensemble
from hgnetv2_pipeline.mining.shards import (
    finished,
    pool_rows,
    pool_slices,
    remove_beyond,
    write_plan,
    write_shard,
)
from hgnetv2_pipeline.progress import Progress
from hgnetv2_pipeline.stopping import StopRequest, stop_on_signal

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Read:
    """One image of the pool after its only decode; with a reason, it could not be used."""

    pixels: dict[str, NDArray[np.uint8]]
    phash: int
    sha256: str
    reason: str


class _PoolImages:
    """A slice of the pool, read and decoded by position (a map-style dataset)."""

    def __init__(
        self, rows: pd.DataFrame, root: Path, preprocesses: Mapping[str, data.Preprocess]
    ) -> None:
        self._rows, self._root, self._preprocesses = rows, root, dict(preprocesses)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> _Read:
        row = self._rows.iloc[position]
        try:
            raw = data.read_bytes(row, self._root)
            sha256 = hashlib.sha256(raw).hexdigest()
            known = row["bytes_sha256"]
            if isinstance(known, str) and known not in ("", sha256):
                raise DataError("its bytes are not those that were indexed; ingest the pool again")
            limit = max(one.max_pixels for one in self._preprocesses.values())
            image = data.decode_image(raw, max_pixels=limit)
            pixels = {name: one.image(image) for name, one in self._preprocesses.items()}
            phash = phash64(image)
        except (DataError, OSError) as error:
            return _Read({}, 0, "", str(error) or type(error).__name__)
        return _Read(pixels, phash, sha256, "")


class _Padded:
    """Collates reads into full batches: bad images and the missing tail are left black.

    Every batch has the same shape, so an image's scores do not depend on how many share its batch.
    """

    def __init__(self, preprocesses: Mapping[str, data.Preprocess], batch_size: int) -> None:
        self._sides = {name: one.crop for name, one in preprocesses.items()}
        self._batch_size = batch_size

    def __call__(self, reads: list[_Read]) -> tuple[list[_Read], dict[str, torch.Tensor]]:
        batch = {}
        for name, side in self._sides.items():
            pixels = np.zeros((self._batch_size, side, side, 3), dtype=np.uint8)
            for place, read in enumerate(reads):
                if not read.reason:
                    pixels[place] = read.pixels[name]
            batch[name] = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return [_Read({}, read.phash, read.sha256, read.reason) for read in reads], batch


def score_pool(
    samples: pd.DataFrame | Path,
    root: Path,
    *,
    teachers: Sequence[str],
    num_classes: int,
    out: Path,
    weights_root: Path | None = None,
    preprocess: data.Preprocess | None = None,
    prefix: str = "",
    shard_rows: int = 65_536,
    batch_size: int = 64,
    workers: int = 0,
    features: bool = False,
    dtype: str = "float32",
    device: str = "cpu",
    max_bad: float = 0.01,
    ledger: data.Ledger | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> dict[str, Any]:
    """Score a pool with one teacher or the mean of several; resumable, shard by shard.

    ``samples`` is the pool's frame or the path of its parquet index (streamed; sorted by key), of
    which the images whose keys begin with ``prefix`` are scored: those of one source.
    ``teachers`` are specs of ``models.build_from``, looked up below ``weights_root`` (``root`` of
    the weights). With ``preprocess`` None every teacher uses the preprocessing of its weights.
    Shards are slices of ``shard_rows`` images of the sorted pool; process ``rank`` of
    ``world_size`` does every ``world_size``-th of them, and no process waits for another.

    Writes ``out/shard=00000.parquet`` and ``.json``: key, top_ids int32 [K], top_logits
    float32 [K], lse, score_q (best probability in millionths), phash64, bytes_sha256, for every
    image that could be read; the others are in the manifest and in ``ledger``. With ``features``
    also feat float16 [D], see ``ensemble.Scores``. A finished shard with the same images, teachers
    and preprocessing is kept as it is.

    Returns counts over the shards of this process: listed, scored, quarantined, shards,
    shards_reused, and the teachers. Raises DataError when the pool is empty or more than
    ``max_bad`` of it is unreadable, Interrupted when asked to stop: the shard in work is lost,
    the finished ones stay.
    """
    listed = pool_rows(samples, prefix)
    if not listed:
        raise DataError("the pool is empty; there is nothing to score (set data.pool)")
    for name, number in (("shard_rows", shard_rows), ("batch_size", batch_size)):
        if number < 1:
            raise ParameterError(f"{name} must be at least 1, not {number} (mining.{name})")
    if not 0 <= rank < world_size:
        raise ParameterError(f"rank {rank} is not one of {world_size} processes")
    ensemble = Ensemble(
        teachers,
        num_classes=num_classes,
        weights_root=weights_root or root,
        preprocess=preprocess,
        dtype=dtype,
        device=device,
    )
    ledger = data.Ledger(listed, max_bad) if ledger is None else ledger
    count = write_plan(out, listed, shard_rows, prefix)
    totals = {"listed": 0, "scored": 0, "quarantined": 0, "shards": 0, "shards_reused": 0}
    mine = range(rank, count, world_size)
    todo = sum(min(shard_rows, listed - number * shard_rows) for number in mine)
    with stop_on_signal() as stop, _exact(), Progress(todo, "scoring the pool", "img") as progress:
        for number, rows in enumerate(pool_slices(samples, shard_rows, prefix)):
            if number not in mine:
                continue
            identity = {
                "format": 2,
                "inputs_sha256": images_hash(rows),
                "teachers": ensemble.identity,
                "num_classes": num_classes,
                "dtype": dtype,
                "batch_size": batch_size,
                "features": features,
            }
            manifest = finished(out, number, identity)
            reused = manifest is not None
            if manifest is None:
                columns, bad = _score_rows(
                    rows, root, ensemble, batch_size, workers, features, stop, progress
                )
                manifest = write_shard(
                    out,
                    number,
                    columns,
                    {
                        "number": number,
                        "identity": identity,
                        "teachers": [member.spec for member in ensemble.members],
                        "device": ensemble.device.type,
                        "listed": len(rows),
                        "rows": len(columns["key"]),
                        "quarantined": bad,
                    },
                )
            else:
                progress.advance(len(rows))
            for entry in manifest["quarantined"]:
                ledger.quarantine(entry["key"], entry["reason"])
            ledger.check()
            totals["listed"] += manifest["listed"]
            totals["scored"] += manifest["rows"]
            totals["quarantined"] += len(manifest["quarantined"])
            totals["shards"] += 1
            totals["shards_reused"] += reused
    if rank == 0:
        remove_beyond(out, count)
    _log.info("pool: %(listed)d listed, %(scored)d scored, %(quarantined)d quarantined; "
              "%(shards)d shards, %(shards_reused)d of them reused", totals)  # fmt: skip
    return totals | {"teachers": ensemble.identity, "pool_listed": listed}


def _score_rows(
    rows: pd.DataFrame,
    root: Path,
    ensemble: Ensemble,
    batch_size: int,
    workers: int,
    features: bool,
    stop: StopRequest,
    progress: Progress,
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The columns of one shard, and the images of it that could not be read."""
    loader = torch.utils.data.DataLoader(
        _PoolImages(rows, root, ensemble.preprocesses),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_Padded(ensemble.preprocesses, batch_size),
        worker_init_fn=_one_thread,
        # A process that has a CUDA context must not be forked.
        multiprocessing_context="forkserver" if workers and torch.cuda.is_initialized() else None,
        pin_memory=ensemble.device.type == "cuda",
    )
    keys: list[str] = rows["key"].tolist()
    names = ["key", "top_ids", "top_logits", "lse", "score_q", "phash64", "bytes_sha256"]
    columns: dict[str, list[Any]] = {name: [] for name in [*names, *(["feat"] * features)]}
    bad: list[dict[str, str]] = []
    first = 0
    for reads, images in loader:
        if stop:
            raise Interrupted("asked to stop while scoring the pool; run again to go on")
        scores = ensemble.score(images, features=features)
        for place, read in enumerate(reads):
            key = keys[first + place]
            if read.reason:
                bad.append({"key": key, "reason": read.reason})
                continue
            columns["key"].append(key)
            columns["top_ids"].append(scores.top_ids[place])
            columns["top_logits"].append(scores.top_logits[place])
            columns["lse"].append(scores.lse[place])
            columns["score_q"].append(scores.score_q[place])
            columns["phash64"].append(read.phash)
            columns["bytes_sha256"].append(read.sha256)
            if scores.features is not None:
                columns["feat"].append(scores.features[place])
        first += len(reads)
        progress.advance(len(reads))
    return columns, bad


@contextmanager
def _exact() -> Iterator[None]:
    """Full float32 products on GPUs: TF32 keeps ten bits, too few to rank by."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    former = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    try:
        yield
    finally:
        for backend, value in zip(backends, former, strict=True):
            backend.allow_tf32 = value


def _one_thread(worker: int) -> None:
    """A worker is one process for one core; OpenCV's own threads would crowd the others."""
    import cv2

    cv2.setNumThreads(0)
