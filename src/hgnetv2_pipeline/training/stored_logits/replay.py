"""A teacher's answers as records, and the checks before a run trusts stored ones."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from hgnetv2_pipeline.data.decode import Decoding
from hgnetv2_pipeline.data.index import decoding_of
from hgnetv2_pipeline.data.sample_rng import keyed_rng
from hgnetv2_pipeline.durable import sha256_json
from hgnetv2_pipeline.errors import DataError, WeightsError
from hgnetv2_pipeline.input.augment import Augment, EvaluationView
from hgnetv2_pipeline.input.batches import SampleReader
from hgnetv2_pipeline.input.teacher_logits import (
    REMEDY,
    Records,
    ReplayedView,
    TeacherLogits,
    decode_versions,
    describe_view,
    record_dtype,
)
from hgnetv2_pipeline.teacher.teacher import Teacher
from hgnetv2_pipeline.training.config import RunSpec
from hgnetv2_pipeline.training.step import AMP

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)

# Largest difference of a logit between a stored answer and the teacher's of today, by precision:
# 16-bit logits of size 16 to 32 are 1/64 (fp16) or 1/8 (bf16) apart.
TOLERANCE = {"off": 1e-2, "fp16": 5e-2, "bf16": 5e-1}
# By how much float16 may move a number, as a share of it.
_ROUNDING = 2.0**-11


def own_views(teacher: Teacher) -> dict[str, EvaluationView]:
    """What the networks of a teacher see of an image in evaluation, by preprocessing."""
    return {how: EvaluationView(one) for how, one in teacher.preprocesses.items()}


def describe_origin(
    view: Augment | Mapping[str, Augment],
    *,
    resized: int | None,
    decoding: Decoding,
    teacher: Mapping[str, str],
    classes: Sequence[str],
) -> dict[str, Any]:
    """What the answers of a store follow from, and what a run that takes them must agree with.

    ``view``: what all networks of the teacher are shown, or to each its own by preprocessing.
    """

    shown = view if isinstance(view, Mapping) else {"": view}
    described = {
        how: describe_view(one, resized=resized, decoding=decoding) for how, one in shown.items()
    }
    return {
        "transform": described if isinstance(view, Mapping) else described[""],
        "decode": decode_versions(next(iter(shown.values()))),
        "teacher": dict(teacher),
        "classes": {"number": len(classes), "sha256": sha256_json(list(classes))},
    }


def open_replay(
    spec: RunSpec,
    view: Augment,
    train: pd.DataFrame,
    teacher: Teacher,
    sources: Mapping[str, str],
    device: torch.device,
) -> ReplayedView:
    """The stored views of a run's samples, once all is found to be as it was when they were made.

    Raises:
        DataError: another augmentation, decoder, teacher, class list or image, or the teacher
            answers otherwise than it did; the message names the difference.
    """
    assert spec.teacher_logits is not None, "asked for by the caller"  # noqa: S101
    store = TeacherLogits(spec.teacher_logits.folder)
    resized = spec.config.input.resized
    decoding = decoding_of(train)
    clean = spec.teacher_logits.clean
    teacher = teacher.seeing(spec.config.fit_of_others) if clean else teacher
    store.refuse_others(
        describe_origin(
            own_views(teacher) if clean else view,
            resized=resized, decoding=decoding, teacher=sources, classes=spec.classes,
        )
    )  # fmt: skip
    replay = ReplayedView(view, store, store.rows_of(train), clean)
    _log.info(
        "stored teacher logits: %s, the best %d of %d classes, from %s",
        "one answer per image" if clean else f"{store.views} views per image",
        store.topk, store.classes, store.folder,
    )  # fmt: skip
    if spec.teacher_logits.check:
        check_answers(
            replay, SampleReader(train, spec.train_root), teacher, spec.teacher_logits.check, device
        )
    return replay


def check_answers(
    replay: ReplayedView, reader: SampleReader, teacher: Teacher, count: int, device: torch.device
) -> float:
    """Ask the teacher again for ``count`` stored records; return the largest difference of a logit,
    beyond what storing it in float16 explains.

    An image that cannot be read, then or now, is passed by: the loader names it.

    Raises:
        DataError: a logit differs by more than ``TOLERANCE``.
    """
    store = replay.store
    rng = keyed_rng(store.seed, 0, f"check of {count}")
    own = own_views(teacher)
    records = []
    shown: dict[str, list[NDArray[np.uint8]]] = {how: [] for how in own}
    for row, number in zip(
        rng.integers(len(reader), size=count).tolist(),
        rng.integers(store.views, size=count).tolist(),
        strict=True,
    ):
        try:
            picture = reader.image(row)
            if replay.clean:
                record = replay.answer(row, 0)
                views = {how: one(picture, rng) for how, one in own.items()}
            else:
                finish, record = replay.begin(picture, reader.keys[row].as_py(), row, number)
                views = dict.fromkeys(own, finish())
        except DataError:
            continue
        records.append(record)
        for how, view in views.items():
            shown[how].append(view)
    if not records:
        return 0.0
    stored = np.stack(records)
    images = {
        how: torch.from_numpy(np.stack(one)).permute(0, 3, 1, 2) for how, one in shown.items()
    }
    with in_precision(device, store.made["amp"]):
        asked = torch.cat(
            [
                teacher({how: one[at : at + 64].to(device) for how, one in images.items()}).float()
                for at in range(0, len(records), 64)
            ]
        ).cpu()
    logps = as_floats(stored, "logps")
    known = logps + as_floats(stored, "lse")[:, None]
    now = asked.gather(1, torch.from_numpy(stored["ids"].astype(np.int64)))
    apart = float(((known - now).abs() - _ROUNDING * logps.abs()).clamp_min(0).max())
    _log.info("%d stored answers asked for again: logits differ by %.1e", len(records), apart)
    allowed = TOLERANCE[store.made["amp"]]
    if not apart <= allowed:
        raise DataError(
            f"{store.folder}: of {len(records)} answers asked for again, a logit differs by "
            f"{apart:.3g} (allowed: {allowed:g}): views or teacher are not what they were; {REMEDY}"
        )
    return apart


def as_floats(records: Records, field: str) -> torch.Tensor:
    """A field of records as float32, in memory of its own.

    With 3, 5, 7 or 9 classes a record is not a multiple of 4 bytes long, which torch cannot read.
    """
    return torch.from_numpy(records[field].astype(np.float32))


def answer(
    teacher: Teacher, images: torch.Tensor, *, topk: int, amp: str, device: torch.device
) -> Records:
    """Records [N] of uint8 images [N, 3, H, W]; raises what ``as_records`` raises."""
    with in_precision(device, amp):
        logits = teacher(images.to(device, non_blocking=True)).float()
    return as_records(logits, topk=topk, amp=amp)


def as_records(logits: torch.Tensor, *, topk: int, amp: str) -> Records:
    """Records [N] of a teacher's logits [N, C], float32.

    Raises:
        WeightsError: an answer is not finite.
    """
    if not bool(torch.isfinite(logits).all()):
        raise WeightsError(
            "the teacher answers with numbers that are not finite: its weights are damaged, or "
            f"teacher_logits.amp={amp} is too narrow for it"
        )
    lse = logits.logsumexp(dim=1, keepdim=True)
    values, ids = (part.cpu().numpy() for part in (logits - lse).topk(topk, dim=1))
    # topk leaves equal values in any order; the smaller class first is the same everywhere.
    order = np.lexsort((ids, -values), axis=1)
    records: Records = np.zeros(len(logits), record_dtype(logits.shape[1], topk))
    records["ids"] = np.take_along_axis(ids, order, axis=1)
    # What is less likely than float16 can say must not become the logarithm of 0.
    records["logps"] = np.take_along_axis(values, order, axis=1).clip(-6e4)
    records["lse"] = lse[:, 0].cpu().numpy()
    return records


@contextmanager
def in_precision(device: torch.device, amp: str) -> Iterator[None]:
    """The precision of a store's answers: ``off`` is float32 in full, where a GPU would use TF32
    for convolutions and keep ten bits."""
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with exact, torch.autocast(device.type, AMP[amp], enabled=amp != "off"):
        yield
