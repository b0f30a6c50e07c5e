"""How fast a teacher answers: a few real batches, before a pass over millions of images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hgnetv2_pipeline.teacher.teacher import Teacher
from hgnetv2_pipeline.training.step import AMP

if TYPE_CHECKING:
    from hgnetv2_pipeline.input.batches import Batch

BATCHES = 4
SECONDS = 20.0


@dataclass(frozen=True)
class Rate:
    """Seconds an image (or view), and the share of it spent waiting for images."""

    seconds: float
    loader_share: float


def pass_rate(
    teacher: Teacher, batches: Iterator[Batch], *, batch_size: int, amp: str, device: torch.device
) -> Rate:
    """Time up to ``BATCHES`` batches, or ``SECONDS``; one before them pays for start-up.

    Of a list that is a single batch that one is timed.
    """
    timed: list[tuple[int, float, float]] = []
    began = start = time.monotonic()
    for batch in batches:
        loaded = time.monotonic()
        for part in batch.images.split(batch_size):
            with torch.autocast(device.type, AMP[amp], enabled=amp != "off"):
                teacher(part.to(device)).sum().item()
        now = time.monotonic()
        timed.append((len(batch.images), loaded - began, now - began))
        began = now
        if len(timed) > BATCHES or now - start > SECONDS:
            break
    counted = timed[1:] or timed
    images, waited, took = (sum(column) for column in zip(*counted, strict=True))
    return Rate(took / images, waited / took)
