"""Images of the dataset for calibration and for the gate of a lower precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import ExportParams

if TYPE_CHECKING:
    from hgnetv2_pipeline.data.preprocess import Preprocess
    from hgnetv2_pipeline.deployment.export.gate import Validation
    from hgnetv2_pipeline.deployment.export.precisions import Calibration

_BATCH = 64


def validation(
    identity: Identity, lists: Lists, count: int | None, preprocess: Preprocess
) -> Validation:
    """``count`` images of val (None: all); one that cannot be read fails the export."""
    from hgnetv2_pipeline.deployment.export.gate import Validation

    listed = len(lists.frame("val"))
    return Validation(
        batches=lambda: _batches(identity, lists, "val", count, preprocess),
        source=f"{min(count or listed, listed)} of {listed} val images of {identity.dataset}",
    )


def calibration(
    identity: Identity, lists: Lists, params: ExportParams, preprocess: Preprocess
) -> Calibration:
    """``export.calibration.images`` of train or val."""
    from hgnetv2_pipeline.deployment.export.precisions import Calibration

    wish = params.calibration
    listed = len(lists.frame(wish.split))
    return Calibration(
        batches=lambda: (
            pixels for pixels, _ in _batches(identity, lists, wish.split, wish.images, preprocess)
        ),
        source=f"{min(wish.images, listed)} of {listed} {wish.split} images of {identity.dataset}",
        method=wish.method,
        percentile=wish.percentile,
    )


def _batches(
    identity: Identity, lists: Lists, split: str, count: int | None, preprocess: Preprocess
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """uint8 [N, S, S, 3] and labels, evenly spaced over the list, in its order."""
    from hgnetv2_pipeline.data.quarantine import Ledger
    from hgnetv2_pipeline.input.loader import eval_batches
    from hgnetv2_pipeline.progress import Progress

    samples = lists.frame(split)
    if count is not None and count < len(samples):
        samples = samples.iloc[np.linspace(0, len(samples) - 1, count).round().astype(int)]
    ledger = Ledger(len(samples), 0.0)
    with Progress(len(samples), f"images of {split}", "img") as progress:
        for batch in eval_batches(
            samples, identity.folder("raw"), preprocess=preprocess, batch_size=_BATCH, workers=0,
            ledger=ledger,
        ):  # fmt: skip
            pixels = np.ascontiguousarray(batch.images.permute(0, 2, 3, 1).numpy())
            yield pixels[: batch.n_real], batch.labels.numpy()
            progress.advance(len(batch.keys))
    ledger.check()
