"""The probabilities that members of a teacher give to images; ``project.teacher`` scores them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.input.loader import eval_batches

if TYPE_CHECKING:
    import pandas as pd

    from hgnetv2_pipeline.teacher.teacher import Teacher


def member_probabilities(
    teacher: Teacher,
    samples: pd.DataFrame,
    root: Path,
    *,
    device: torch.device,
    batch_size: int = 64,
    workers: int = 0,
) -> list[NDArray[np.float64]]:
    """Probabilities [N, C] of each member for ``samples``, in their order.

    Every member sees the images as its weights want them. Raises ``DataError`` if one cannot be
    read.
    """
    found: list[list[torch.Tensor]] = [[] for _ in teacher.members]
    with torch.inference_mode():
        for fingerprint, preprocess in teacher.preprocesses.items():
            ledger = Ledger(len(samples), 0.0)
            batches = eval_batches(
                samples, root, preprocess=preprocess, batch_size=batch_size, workers=workers,
                ledger=ledger,
            )  # fmt: skip
            for batch in batches:
                images = batch.images.to(device)
                for member, answers in zip(teacher.members, found, strict=True):
                    if member.preprocess.fingerprint == fingerprint:
                        probability = teacher.answer(member, images).double().softmax(dim=1)
                        answers.append(probability.cpu())
            ledger.check()
    return [torch.cat(answers).numpy() for answers in found]
