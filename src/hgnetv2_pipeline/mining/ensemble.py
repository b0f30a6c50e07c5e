"""One or several teachers as one: the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.errors import ParameterError, WeightsError, unknown_name
from hgnetv2_pipeline.input.loader import normalise
from hgnetv2_pipeline.weights import build

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_KEPT = 10


@dataclass(frozen=True)
class Scores:
    """What an ensemble says of a batch of N images, the best K = min(10, classes) classes each.

    ``top_logits`` are logarithms of the mean probability, so their log-sum-exp over all classes is
    zero up to rounding; ``lse`` holds it all the same, and ``exp(top_logits - lse)`` is exact.
    ``features``, if asked for, are what each member's classifier sees, scaled to length 1 and put
    side by side [N, D].
    ``score_q`` is the best probability in millionths: noise in the last bits cannot reorder it.
    """

    top_ids: NDArray[np.int32]
    top_logits: NDArray[np.float32]
    lse: NDArray[np.float32]
    score_q: NDArray[np.uint32]
    features: NDArray[np.float16] | None = None


@dataclass(frozen=True)
class _Member:
    spec: str
    sha256: str
    model: nn.Module
    preprocess: Preprocess


class Ensemble:
    """Teachers in eval mode, each with the preprocessing its weights were trained for."""

    def __init__(
        self,
        specs: Sequence[str],
        *,
        num_classes: int,
        weights_root: Path,
        preprocess: Preprocess | None,
        dtype: str,
        device: str,
    ) -> None:
        if not specs:
            raise ParameterError(
                "no teacher given; name at least one (--params mining.teacher=...)"
            )
        if dtype not in DTYPES:
            raise unknown_name("dtype", dtype, DTYPES, "--params mining.dtype=...")
        self.dtype, self.device = DTYPES[dtype], torch.device(device)
        self.members = [_load(spec, num_classes, weights_root, preprocess) for spec in specs]
        for member in self.members:
            member.model.eval().to(self.device, memory_format=torch.channels_last)

    @property
    def preprocesses(self) -> dict[str, Preprocess]:
        """The different preprocessings needed, by fingerprint."""
        return {member.preprocess.fingerprint: member.preprocess for member in self.members}

    @property
    def identity(self) -> list[dict[str, str]]:
        """What the scores depend on: each teacher's weights and preprocessing."""
        return [
            {"sha256": member.sha256, "preprocess": member.preprocess.fingerprint}
            for member in self.members
        ]

    @torch.inference_mode()
    def score(self, images: Mapping[str, torch.Tensor], *, features: bool = False) -> Scores:
        """Score a batch: ``images`` is uint8 [N, 3, H, W], once by preprocessing fingerprint."""
        logs, seen = [], []
        for member in self.members:
            how = member.preprocess
            pixels = images[how.fingerprint].to(self.device, non_blocking=True)
            batch = normalise(pixels, how.mean, how.std, torch.float32)
            with self._precision(), _watched(member) as before:
                logits = member.model(batch)
            if features:
                seen.append(torch.nn.functional.normalize(before[-1].float().flatten(1)))
            if not bool(torch.isfinite(logits).all()):
                raise WeightsError(
                    f"teacher {member.spec} answers with numbers that are not finite: "
                    "its weights are damaged, or dtype is too narrow for it (mining.dtype)"
                )
            logs.append(torch.log_softmax(logits.float(), dim=1))
        log_mean = torch.logsumexp(torch.stack(logs), dim=0) - float(np.log(len(logs)))
        values, ids = (part.cpu().numpy() for part in log_mean.topk(min(_KEPT, log_mean.shape[1])))
        # topk leaves equal values in any order; the smaller class first is the same everywhere.
        order = np.lexsort((ids, -values), axis=1)
        values = np.take_along_axis(values, order, axis=1).astype(np.float32)
        lse = torch.logsumexp(log_mean, dim=1).cpu().numpy().astype(np.float32)
        best = np.exp(values[:, 0].astype(np.float64) - lse)
        return Scores(
            top_ids=np.take_along_axis(ids, order, axis=1).astype(np.int32),
            top_logits=values,
            lse=lse,
            score_q=np.rint(best * 1e6).astype(np.uint32),
            features=torch.cat(seen, dim=1).half().cpu().numpy() if features else None,
        )

    def _precision(self) -> AbstractContextManager[Any]:
        narrow = self.dtype != torch.float32
        autocast: AbstractContextManager[Any] = torch.autocast(
            self.device.type, dtype=self.dtype, enabled=narrow
        )
        return autocast


@contextmanager
def _watched(member: _Member) -> Iterator[list[torch.Tensor]]:
    """The inputs that the classifier of a network gets: its last linear layer, or 1x1 conv."""
    seen: list[torch.Tensor] = []
    layers = [m for m in member.model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    watch = layers[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        watch.remove()


def _load(spec: str, num_classes: int, root: Path, preprocess: Preprocess | None) -> _Member:
    model, info = build.build_from(spec, num_classes=num_classes, root=root)
    own = info["preprocess"]
    if isinstance(own, Mapping):
        own = Preprocess.from_dict(own)
    used = preprocess or own
    if used is None:
        raise ParameterError(
            f"the weights of {spec} do not say how their images are prepared; say it "
            "(mining.preprocess)"
        )
    return _Member(
        spec=spec,
        sha256=info.get("sha256") or build.weights_hash(model),
        model=model,
        preprocess=used,
    )
