"""What mining keeps of a teacher's answer: the best classes, a score to rank by, features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hgnetv2_pipeline.errors import WeightsError, unknown_name
from hgnetv2_pipeline.teacher.teacher import Member, Teacher, mean_log_probability
from hgnetv2_pipeline.teacher.typicality import Reference, unit

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_KEPT = 10


@dataclass(frozen=True)
class Scores:
    """What a teacher answers to a batch of N images, the best K = min(10, classes) classes each.

    ``top_logits`` are logarithms of the mean probability, so their log-sum-exp over all classes is
    zero up to rounding; ``lse`` holds it all the same, and ``exp(top_logits - lse)`` is exact.
    ``features``, if asked for, are what each member's classifier sees, scaled to length 1 and put
    side by side [N, D].
    ``score_q`` is the best probability, or how typical the image is of its class, in millionths:
    noise in the last bits cannot reorder it.
    """

    top_ids: NDArray[np.int32]
    top_logits: NDArray[np.float32]
    lse: NDArray[np.float32]
    score_q: NDArray[np.uint32]
    features: NDArray[np.float16] | None = None


class Scorer:
    """A teacher on ``device`` that scores a pool, each member with its own preprocessing; with a
    ``reference`` images are scored by typicality.
    """

    def __init__(
        self, teacher: Teacher, *, reference: Reference | None = None, dtype: str, device: str
    ) -> None:
        if dtype not in DTYPES:
            raise unknown_name("dtype", dtype, DTYPES, "ScoreSpec.dtype")
        self.dtype, self.device = DTYPES[dtype], torch.device(device)
        self.reference = reference and reference.to(self.device)
        self.teacher = teacher

    @torch.inference_mode()
    def score(self, images: Mapping[str, torch.Tensor], *, features: bool = False) -> Scores:
        """Score a batch: ``images`` is uint8 [N, 3, H, W], once by preprocessing fingerprint.

        Raises ``WeightsError`` for answers that are not finite.
        """
        narrow = self.dtype != torch.float32
        answers, seen = [], []
        for member in self.teacher.members:
            pixels = images[member.preprocess.fingerprint].to(self.device, non_blocking=True)
            with (
                torch.autocast(self.device.type, dtype=self.dtype, enabled=narrow),
                _watched(member) as before,
            ):
                logits = self.teacher.answer(member, pixels)
            if features or self.reference:
                seen.append(unit(before[-1]))
            if not bool(torch.isfinite(logits).all()):
                raise WeightsError(
                    f"teacher {member.spec} answers with numbers that are not finite: "
                    "its weights are damaged, or dtype is too narrow for them"
                )
            answers.append(logits.float())
        log_mean = mean_log_probability(answers)
        values, ids = (part.cpu().numpy() for part in log_mean.topk(min(_KEPT, log_mean.shape[1])))
        # topk leaves equal values in any order; the smaller class first is the same everywhere.
        order = np.lexsort((ids, -values), axis=1)
        values = np.take_along_axis(values, order, axis=1).astype(np.float32)
        ids = np.take_along_axis(ids, order, axis=1)
        lse = torch.logsumexp(log_mean, dim=1).cpu().numpy().astype(np.float32)
        best = np.exp(values[:, 0].astype(np.float64) - lse)
        if self.reference:
            guesses = torch.from_numpy(ids[:, 0].copy()).to(self.device)
            log_best = torch.from_numpy(values[:, 0] - lse).to(self.device)
            together = unit(torch.cat(seen, dim=1))
            best = self.reference.typicality(log_best, guesses, together).cpu().numpy()
        return Scores(
            top_ids=ids.astype(np.int32),
            top_logits=values,
            lse=lse,
            score_q=np.rint(best * 1e6).astype(np.uint32),
            features=torch.cat(seen, dim=1).half().cpu().numpy() if features else None,
        )


@contextmanager
def _watched(member: Member) -> Iterator[list[torch.Tensor]]:
    """The inputs that the classifier of a network gets: its last linear layer, or 1x1 conv."""
    seen: list[torch.Tensor] = []
    layers = [m for m in member.network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    watch = layers[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        watch.remove()
