"""The teacher's pass over the pool: one decode per image gives its scores and its hashes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from hgnetv2_pipeline.data import decode, index, quarantine
from hgnetv2_pipeline.data.index import images_hash
from hgnetv2_pipeline.data.perceptual import phash64
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.durable import sha256_file, sha256_json
from hgnetv2_pipeline.errors import DataError, Interrupted, ParameterError
from hgnetv2_pipeline.input.batches import SampleReader
from hgnetv2_pipeline.input.loader import iterate_batches
from hgnetv2_pipeline.input.workers import watch_workers
from hgnetv2_pipeline.mining.answers import Scorer
from hgnetv2_pipeline.mining.earlier_scores import EarlierScores
from hgnetv2_pipeline.mining.score_shards import (
    column_names,
    pool_rows,
    pool_slices,
    score_store,
    scores_table,
    write_plan,
    write_scores,
)
from hgnetv2_pipeline.mining.score_spec import ScoreSpec
from hgnetv2_pipeline.progress import Progress
from hgnetv2_pipeline.shards import shard_slices
from hgnetv2_pipeline.stopping import StopRequest, stop_on_signal
from hgnetv2_pipeline.teacher.teacher import load_teacher
from hgnetv2_pipeline.teacher.typicality import read_reference

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Seen:
    """A batch of the pool after the only decode of its images.

    Attributes:
        images: uint8 [batch_size, 3, H, W] by preprocessing fingerprint; black stands where an
            image cannot be used, and where the pool has ended.
        places: the place in the batch of every image that can be used.
        keys, phashes, sha256s: of those images.
        bad: key and reason of the others.
    """

    images: dict[str, torch.Tensor]
    places: list[int]
    keys: list[str]
    phashes: list[int]
    sha256s: list[str]
    bad: list[tuple[str, str]]

    @property
    def nbytes(self) -> int:
        """Bytes of the images."""
        return sum(pixels.nbytes for pixels in self.images.values())

    def pin_memory(self) -> _Seen:
        return replace(self, images={how: one.pin_memory() for how, one in self.images.items()})


class _PoolMaker:
    """Makes batches of a slice of the pool, in its order.

    Every batch has the same shape, so that an image's scores do not depend on how many share its
    batch.
    """

    def __init__(
        self,
        rows: pd.DataFrame,
        root: Path,
        preprocesses: Mapping[str, Preprocess],
        batch_size: int,
    ) -> None:
        self.reader, self.batch_size = SampleReader(rows, root), batch_size
        self.known = rows["bytes_sha256"].to_numpy()
        self.preprocesses = dict(preprocesses)
        self.decoding = replace(
            self.reader.decoding,
            max_pixels=max(one.max_pixels for one in self.preprocesses.values()),
        )

    def make(self, step: int) -> _Seen:
        """Batch ``step`` of the slice."""
        pixels = {
            how: np.zeros((self.batch_size, *one.size, 3), dtype=np.uint8)
            for how, one in self.preprocesses.items()
        }
        images = {how: torch.from_numpy(one).permute(0, 3, 1, 2) for how, one in pixels.items()}
        seen = _Seen(images, [], [], [], [], [])
        first = step * self.batch_size
        for place in range(min(self.batch_size, len(self.reader) - first)):
            key = self.reader.keys[first + place].as_py()
            try:
                views, phash, sha256 = self._read(first + place)
            except (DataError, OSError) as error:
                seen.bad.append((key, str(error) or type(error).__name__))
                continue
            for how, view in views.items():
                pixels[how][place] = view
            seen.places.append(place)
            seen.keys.append(key)
            seen.phashes.append(phash)
            seen.sha256s.append(sha256)
        return seen

    def _read(self, row: int) -> tuple[dict[str, NDArray[np.uint8]], int, str]:
        """The views of an image, its perceptual hash and that of its bytes."""
        self.reader.note_row(row)
        raw = index.read_bytes(self.reader.place(row), self.reader.root)
        sha256 = hashlib.sha256(raw).hexdigest()
        known = self.known[row]
        if isinstance(known, str) and known not in ("", sha256):
            raise DataError("its bytes are not those that were indexed; ingest the pool again")
        image = decode.decode_image(raw, self.decoding)
        views = {how: one.image(image) for how, one in self.preprocesses.items()}
        return views, phash64(image), sha256


@watch_workers()
def score_pool(spec: ScoreSpec) -> dict[str, Any]:
    """Score a pool with one teacher or the mean of several; resumable, shard by shard.

    Shards are slices of ``shard_rows`` images of the sorted pool; process ``rank`` of
    ``world_size`` does every ``world_size``-th of them, and no process waits for another.

    Writes ``out/shard=00000.parquet`` and ``.json``: key, top_ids int32 [K], top_logits
    float32 [K], lse, score_q (best probability in millionths), phash64, bytes_sha256, for every
    image that could be read; the others are in the manifest. With ``features`` also feat
    float16 [D], see ``answers.Scores``. A finished shard with the same images, teachers and
    preprocessing is kept as it is; in others, images whose bytes ``earlier`` shards have scores of
    are not read (``taken_over`` in the manifest says of how many).

    Returns counts over the shards of this process: listed, scored (taken_over of them),
    quarantined, shards, shards_reused, and the teachers.

    Raises:
        DataError: the pool is empty, or more than ``max_bad`` of it is unreadable.
        Interrupted: a stop was requested; the shard in work is lost, the finished ones stay.
        ParameterError: a number or a teacher cannot be.
    """
    listed = pool_rows(spec.index, spec.prefix)
    _check(spec, listed)
    scorer = _scorer(spec)
    ledger = quarantine.Ledger(listed, spec.max_bad)
    count = write_plan(spec.out, listed, spec.shard_rows, spec.prefix)
    mine = shard_slices(listed, spec.shard_rows, spec.rank, spec.world_size)
    totals = dict.fromkeys(("listed", "scored", "taken_over", "quarantined", "shards_reused"), 0)
    totals["shards"] = len(mine)
    todo = sum(part.stop - part.start for part in mine.values())
    with stop_on_signal() as stop, _exact(), Progress(todo, "scoring", "img") as progress:
        work = _Pass(spec, scorer, ledger, stop, progress)
        for number, rows in enumerate(pool_slices(spec.index, spec.shard_rows, spec.prefix)):
            if number in mine:
                manifest, reused = work.shard(number, rows)
                totals["listed"] += manifest["listed"]
                totals["scored"] += manifest["rows"]
                totals["taken_over"] += manifest.get("taken_over", 0)
                totals["quarantined"] += len(manifest["quarantined"])
                totals["shards_reused"] += reused
    if spec.rank == 0:
        # Others may still be at work on theirs.
        score_store(spec.out).sweep(count, alone=False)
    _log.info("images: %(listed)d listed, %(scored)d scored (%(taken_over)d of them earlier), "
              "%(quarantined)d quarantined; %(shards)d shards, %(shards_reused)d of them reused",
              totals)  # fmt: skip
    return totals | {"teachers": scorer.teacher.identity, "pool_listed": listed}


def count_known(spec: ScoreSpec) -> int:
    """How many images of a pool the ``earlier`` shards have scores of that still hold."""
    if not spec.earlier:
        return 0
    earlier = EarlierScores(spec.earlier, _identity(spec, _scorer(spec), ""))
    slices = pool_slices(spec.index, spec.shard_rows, spec.prefix)
    return sum(earlier.count(rows["bytes_sha256"]) for rows in slices)


def _scorer(spec: ScoreSpec) -> Scorer:
    how = spec.preprocess
    teacher = load_teacher(
        spec.teachers,
        classes=spec.num_classes,
        root=spec.weights_root,
        device=torch.device(spec.device),
        preprocess=None if how is None else Preprocess.from_dict(how),
        decoding=index.decoding_in(spec.index),
    ).seeing(spec.fit)
    return Scorer(
        teacher,
        reference=None if spec.reference is None else read_reference(spec.reference),
        dtype=spec.dtype,
        device=spec.device,
    )


def _identity(spec: ScoreSpec, scorer: Scorer, images: str) -> dict[str, Any]:
    """What a shard is made from: other images (by hash), teachers or precision give another."""
    return {
        "format": 2,
        "inputs_sha256": images,
        "teachers": scorer.teacher.identity,
        "num_classes": spec.num_classes,
        "dtype": spec.dtype,
        "batch_size": spec.batch_size,
        "features": spec.features,
        **({} if spec.reference is None else {"reference": sha256_file(spec.reference)}),
    }


def _check(spec: ScoreSpec, listed: int) -> None:
    if not listed:
        raise DataError("the pool is empty; there is nothing to score (set data.pool)")
    for name in ("shard_rows", "batch_size"):
        number = getattr(spec, name)
        if number < 1:
            raise ParameterError(f"{name} must be at least 1, not {number} (mining.{name})")
    if not 0 <= spec.rank < spec.world_size:
        raise ParameterError(f"rank {spec.rank} is not one of {spec.world_size} processes")


@dataclass(frozen=True)
class _Pass:
    """What a process has at hand while it scores its shards."""

    spec: ScoreSpec
    scorer: Scorer
    ledger: quarantine.Ledger
    stop: StopRequest
    progress: Progress

    def shard(self, number: int, rows: pd.DataFrame) -> tuple[dict[str, Any], bool]:
        """The manifest of shard ``number``, the images ``rows``; whether it was finished before."""
        identity = _identity(self.spec, self.scorer, images_hash(rows))
        store = score_store(self.spec.out)
        found = store.finished(number, sha256_json(identity))
        if found is None:
            columns, taken, bad = self._columns(rows)
            manifest = write_scores(
                store.folder,
                number,
                columns,
                {
                    "number": number,
                    "identity": identity,
                    "teachers": [member.spec for member in self.scorer.teacher.members],
                    "device": self.scorer.device.type,
                    "listed": len(rows),
                    "rows": len(columns["key"]),
                    "quarantined": bad,
                    **({"taken_over": taken} if taken else {}),
                },
            )
        else:
            manifest = found
            self.progress.advance(len(rows))
        for entry in manifest["quarantined"]:
            self.ledger.quarantine(entry["key"], entry["reason"])
        self.ledger.check()
        return manifest, found is not None

    @cached_property
    def earlier(self) -> EarlierScores:
        """What other folders know, looked for when the first shard is not finished."""
        return EarlierScores(self.spec.earlier, _identity(self.spec, self.scorer, ""))

    def _columns(self, rows: pd.DataFrame) -> tuple[dict[str, Any], int, list[dict[str, str]]]:
        """The scores of one shard, how many of them are earlier ones, and its unreadable images."""
        import pyarrow as pa

        known, table = self.earlier.take(rows)
        self.progress.advance(len(known))
        bad: list[dict[str, str]] = []
        if len(known) < len(rows):
            columns, bad = self._scores(rows.drop(index=rows.index[known]))
            if not len(known):
                return columns, 0, bad
            if columns["key"]:
                table = pa.concat_tables([table, scores_table(columns)]).sort_by("key")
        table = table.combine_chunks()
        return dict(zip(table.column_names, table.columns, strict=True)), len(known), bad

    def _scores(self, rows: pd.DataFrame) -> tuple[dict[str, list[Any]], list[dict[str, str]]]:
        """Columns of ``rows``, whose images are read now, and those that could not be."""
        spec = self.spec
        maker = _PoolMaker(rows, spec.root, self.scorer.teacher.preprocesses, spec.batch_size)
        columns: dict[str, list[Any]] = {name: [] for name in column_names(features=spec.features)}
        bad: list[dict[str, str]] = []
        batches = -(-len(rows) // spec.batch_size)
        # By name: an error in the loop would close what only the loop holds before
        # ``watch_workers`` can ask it which image a worker died at.
        read = iterate_batches(maker, 0, batches, spec.workers, self.ledger)
        for seen in read:
            if self.stop:
                raise Interrupted("asked to stop while scoring images; run again to go on")
            scores = self.scorer.score(seen.images, features=spec.features)
            columns["key"] += seen.keys
            columns["phash64"] += seen.phashes
            columns["bytes_sha256"] += seen.sha256s
            for place in seen.places:
                columns["top_ids"].append(scores.top_ids[place])
                columns["top_logits"].append(scores.top_logits[place])
                columns["lse"].append(scores.lse[place])
                columns["score_q"].append(scores.score_q[place])
                if scores.features is not None:
                    columns["feat"].append(scores.features[place])
            bad += [{"key": key, "reason": reason} for key, reason in seen.bad]
            self.progress.advance(len(seen.places) + len(seen.bad))
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
