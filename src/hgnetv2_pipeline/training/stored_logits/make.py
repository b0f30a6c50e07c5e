"""The teacher's pass: every stored view of every image answered once, shard by shard.

``python -m hgnetv2_pipeline.training.stored_logits.make spec.json`` does one process's share of
it; under torchrun that of its rank. No process waits for another, and none needs to be there at
once.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hgnetv2_pipeline.data.index import decoding_in, read_index
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.devices import choose_device
from hgnetv2_pipeline.errors import DataError, DiskFullError, Interrupted
from hgnetv2_pipeline.input.augment import make_augment
from hgnetv2_pipeline.input.loader import view_batches
from hgnetv2_pipeline.input.teacher_logits import (
    Records,
    TeacherLogits,
    logit_shards,
    record_dtype,
    seal_store,
    shard_identity,
    write_records,
)
from hgnetv2_pipeline.input.workers import watch_workers
from hgnetv2_pipeline.ownership import join_helpers
from hgnetv2_pipeline.processes.specs import (
    local_rank,
    read_spec,
    run_from_file,
    run_specs,
    shares,
    torchrun_share,
)
from hgnetv2_pipeline.progress import Progress
from hgnetv2_pipeline.shards import shard_slices
from hgnetv2_pipeline.stopping import StopRequest, stop_on_signal
from hgnetv2_pipeline.teacher.teacher import mean_logits
from hgnetv2_pipeline.training.config import StoreSpec
from hgnetv2_pipeline.training.prepare import build_teacher
from hgnetv2_pipeline.training.run import torch_settings
from hgnetv2_pipeline.training.stored_logits.replay import (
    answer,
    as_records,
    describe_origin,
    in_precision,
    own_views,
)

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from hgnetv2_pipeline.teacher.teacher import Teacher

_log = logging.getLogger(__name__)


@watch_workers()
def store_teacher_logits(spec: StoreSpec) -> dict[str, int]:
    """Answer the views of every ``world_size``-th shard and write them; resumable shard by shard.

    Shards and their bytes do not depend on ``world_size``. ``seal_teacher_logits`` makes a store of
    them once all are there.

    Returns:
        listed, quarantined, shards, shards_reused: of this process.

    Raises:
        Interrupted: a stop was requested; the shard in work is lost, the finished ones stay.
        DataError: more images than ``max_bad`` cannot be read.
        DiskFullError: the store would not fit.
    """
    device = choose_device(spec.device, local_rank(spec.rank))
    images = read_index(spec.samples)
    with torch_settings(device, spec.threads), stop_on_signal() as stop:
        teacher, made = _teacher(spec, device)
        mine = shard_slices(len(images), spec.shard_images, spec.rank, spec.world_size)
        shards = logit_shards(spec.out)
        _check_space(spec, images)
        ledger = Ledger(len(images), spec.max_bad)
        earlier = _earlier(spec, made)
        totals = {"listed": 0, "quarantined": 0, "shards": len(mine), "shards_reused": 0}
        todo = spec.views * sum(part.stop - part.start for part in mine.values())
        with Progress(todo, "storing teacher logits", "view") as progress:
            for number, part in mine.items():
                rows = images.iloc[part]
                identity = shard_identity(made, rows)
                manifest = shards.finished(number, identity)
                totals["shards_reused"] += manifest is not None
                if manifest is None:
                    records = _taken_over(spec, rows, earlier)
                    progress.advance(spec.views * int((~np.isnan(records["lse"][0])).sum()))
                    _answer_rest(spec, rows, records, teacher, ledger, device, stop, progress)
                    bad = _quarantined(ledger, rows, records)
                    manifest = write_records(spec.out, number, records, identity, bad)
                else:
                    progress.advance(spec.views * len(rows))
                for key, reason in manifest["quarantined"]:
                    ledger.quarantine(key, reason)
                ledger.check("teacher_logits.max_bad")
                totals["listed"] += manifest["images"]
                totals["quarantined"] += len(manifest["quarantined"])
    _log.info("teacher logits: %(listed)d images, %(quarantined)d of them quarantined; %(shards)d "
              "shards, %(shards_reused)d of them reused", totals)  # fmt: skip
    return totals


def store_in_processes(spec: StoreSpec) -> None:
    """Store with one process (this one) or ``spec.world_size`` of them side by side.

    Their specifications and logs are in ``spec.out``. Raises what ``store_teacher_logits`` raises.
    """
    if spec.world_size == 1:
        store_teacher_logits(spec)
        return
    run_specs(
        __name__,
        shares(spec, spec.world_size),
        spec.out / "specs",
        jobs=spec.world_size,
        threads=spec.threads,
        logs=spec.out / "logs",
    )


def seal_teacher_logits(spec: StoreSpec) -> TeacherLogits:
    """Make a store of the finished shards: the last step, by one process.

    Raises:
        DataError: a shard is missing.
    """
    images = read_index(spec.samples)
    # Loaded for the hashes alone, so it stays where it is.
    _, made = _teacher(spec, choose_device("cpu"))
    seal_store(spec.out, images, made, spec.shard_images)
    return TeacherLogits(spec.out)


def announce(spec: StoreSpec) -> None:
    """Log what the pass comes to, before it starts."""
    images = read_index(spec.samples)
    _log.info(
        "teacher logits: %s images, %d views of each, %s answers to make, %.2f GB",
        f"{len(images):,}", spec.views, f"{len(images) * spec.views:,}",
        _bytes(spec, len(images)) / 1e9,
    )  # fmt: skip


def _bytes(spec: StoreSpec, images: int) -> int:
    classes = len(spec.classes)
    return images * spec.views * record_dtype(classes, min(spec.topk, classes)).itemsize


def _teacher(spec: StoreSpec, device: torch.device) -> tuple[Teacher, dict[str, Any]]:
    """The teacher, and what its answers follow from."""
    decoding = decoding_in(spec.samples)
    teacher, sources = build_teacher(
        spec.teacher,
        classes=spec.classes,
        root=spec.root,
        preprocess=Preprocess().reading(decoding),
        channels_last=spec.channels_last,
        device=device,
    )
    if spec.augment is None:
        teacher = teacher.seeing(spec.fit)
    made = describe_origin(
        own_views(teacher) if spec.augment is None else make_augment(spec.augment),
        resized=spec.resized,
        decoding=decoding,
        teacher=sources,
        classes=spec.classes,
    )
    topk = min(spec.topk, len(spec.classes))
    return teacher, made | {
        "views": spec.views, "topk": topk, "seed": spec.seed, "amp": spec.amp
    }  # fmt: skip


def _earlier(spec: StoreSpec, made: Mapping[str, Any]) -> list[TeacherLogits]:
    """The other stores whose records are made as these, and are what they were."""
    found = []
    for folder in spec.earlier:
        try:
            store = TeacherLogits(folder)
            if store.differs_from(made):
                continue
            store.verify()
        except DataError as error:
            _log.warning("%s; nothing is taken over from it", error)
            continue
        _log.info("what %s knows is taken over", folder)
        found.append(store)
    return found


def _taken_over(spec: StoreSpec, rows: pd.DataFrame, earlier: Sequence[TeacherLogits]) -> Records:
    """Records [V, images] of one shard with what earlier stores know; NaN where they do not."""
    topk = min(spec.topk, len(spec.classes))
    records: Records = np.zeros((spec.views, len(rows)), record_dtype(len(spec.classes), topk))
    records["lse"] = np.nan
    for store in earlier:
        places, other = store.find(rows)
        for column in np.flatnonzero((places >= 0) & ~other & np.isnan(records["lse"][0])):
            records[:, column] = store.answers_to(int(places[column]))
    return records


def _answer_rest(
    spec: StoreSpec,
    rows: pd.DataFrame,
    records: Records,
    teacher: Teacher,
    ledger: Ledger,
    device: torch.device,
    stop: StopRequest,
    progress: Progress,
) -> None:
    """Fill the records that are NaN; those of images that cannot be read stay so."""
    left = np.flatnonzero(np.isnan(records["lse"][0]))
    if not len(left):
        return
    if spec.augment is None:
        readable, found = _answers_to_images(spec, rows.iloc[left], teacher, ledger, device, stop)
        records[0, left[readable]] = found
        progress.advance(len(left))
        return
    # Whole images per batch, if it holds that many views; they are decoded once.
    images = max(1, spec.batch_size // spec.views)
    batches = view_batches(
        rows.iloc[left],
        spec.samples_root,
        view=make_augment(spec.augment),
        seed=spec.seed,
        views=spec.views,
        images=images,
        workers=spec.workers,
        ledger=ledger,
    )
    seen = 0
    for batch in batches:
        _stop_if_asked(stop)
        parts = [
            answer(teacher, part, topk=records["ids"].shape[-1], amp=spec.amp, device=device)
            for part in batch.images.split(spec.batch_size)
        ]
        answered = np.concatenate(parts).reshape(images, spec.views)
        places = batch.labels.numpy()
        records[:, left[batch.step * images + places]] = answered[places].T
        progress.advance(spec.views * len(places))
        seen += len(places)
    progress.advance(spec.views * (len(left) - seen))


def _answers_to_images(
    spec: StoreSpec,
    rows: pd.DataFrame,
    teacher: Teacher,
    ledger: Ledger,
    device: torch.device,
    stop: StopRequest,
) -> tuple[NDArray[np.bool_], Records]:
    """Which of ``rows`` can be read, and a record of each of these: one answer to the image, which
    every network sees as it does in mining. Networks that see it alike share a pass.
    """
    import torch

    readable = np.zeros(len(rows), bool)
    logits = torch.zeros(len(teacher.members), len(rows), len(spec.classes))
    for how, view in own_views(teacher).items():
        batches = view_batches(
            rows, spec.samples_root, view=view, seed=spec.seed, views=1, images=spec.batch_size,
            workers=spec.workers, ledger=ledger,
        )  # fmt: skip
        for batch in batches:
            _stop_if_asked(stop)
            inside = batch.labels
            places = batch.step * spec.batch_size + inside
            readable[places.numpy()] = True
            images = batch.images.to(device)
            for number, member in enumerate(teacher.members):
                if member.preprocess.fingerprint == how:
                    with in_precision(device, spec.amp), torch.inference_mode():
                        answers = teacher.answer(member, images).float().cpu()
                    logits[number, places] = answers[inside]
    mean = mean_logits(list(logits[:, torch.from_numpy(readable)]))
    return readable, as_records(mean, topk=min(spec.topk, len(spec.classes)), amp=spec.amp)


def _stop_if_asked(stop: StopRequest) -> None:
    if stop:
        raise Interrupted("asked to stop while storing teacher logits; run again to go on")


def _quarantined(ledger: Ledger, rows: pd.DataFrame, records: Records) -> list[tuple[str, str]]:
    unanswered = set(rows["key"][np.isnan(records["lse"][0])])
    frame = ledger.frame()
    known = frame[frame["key"].isin(unanswered)]
    return [(str(key), str(reason)) for key, reason in known[["key", "reason"]].to_numpy()]


def _check_space(spec: StoreSpec, images: pd.DataFrame) -> None:
    """The whole store must fit, less what is there already."""
    spec.out.mkdir(parents=True, exist_ok=True)
    there = sum(path.stat().st_size for path in logit_shards(spec.out).folder.glob("*.npy"))
    needed, free = _bytes(spec, len(images)) - there, shutil.disk_usage(spec.out).free
    if needed > free:
        raise DiskFullError(
            f"teacher logits of {len(images):,} images, {spec.views} views each, need "
            f"{needed / 1e9:.1f} GB more in {spec.out}, {free / 1e9:.1f} GB are free; make room, "
            "or lower teacher_logits.views or teacher_logits.topk"
        )


def _run(path: Path) -> None:
    spec = torchrun_share(read_spec(StoreSpec, path))
    with join_helpers(spec.out):
        store_teacher_logits(spec)


if __name__ == "__main__":
    sys.exit(run_from_file(_run, "A teacher's pass from the JSON of a StoreSpec."))
