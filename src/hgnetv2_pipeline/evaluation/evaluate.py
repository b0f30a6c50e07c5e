"""From a model or an engine and a list of samples to metrics, every listed image counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hgnetv2_pipeline.errors import DataError, WeightsError
from hgnetv2_pipeline.evaluation import metrics
from hgnetv2_pipeline.evaluation.calibration import temperature_scaling
from hgnetv2_pipeline.intervals import wilson_interval

if TYPE_CHECKING:
    import pandas as pd

    from hgnetv2_pipeline.data.preprocess import Preprocess
    from hgnetv2_pipeline.input.batches import Batch

# A torch module, or any function (an engine's .logits) of float32 [N, 3, H, W] in NumPy.
Predictor = Callable[..., Any]


@dataclass(frozen=True)
class Evaluation:
    """``metrics``: the evaluation JSON; ``rows``: one per image, key, label, pred, correct, ..."""

    metrics: dict[str, Any]
    rows: pd.DataFrame


def predict_logits(
    model: Predictor,
    batches: Iterable[Batch],
    *,
    preprocess: Preprocess,
    device: str = "cpu",
    channels_last: bool = False,
    amp: str = "off",
) -> tuple[list[str], NDArray[np.float32]]:
    """Keys and logits float32 [N, C] of all images of ``batches`` (uint8, already cropped).

    ``model`` is a torch module, which runs in inference mode on ``device`` with its own train/eval
    state put back afterwards, or any callable from normalised float32 [N, 3, H, W] in NumPy to
    logits. Images that a batch repeats as padding are dropped.
    """
    from torch import nn

    if isinstance(model, nn.Module):
        forward = _torch_forward(model, preprocess, device, channels_last, amp)
        was_training = [module for module in model.modules() if module.training]
        model.eval()
    else:
        forward = _callable_forward(model, preprocess)
        was_training = []
    keys: list[str] = []
    logits = []
    try:
        for batch in batches:
            real = len(batch.keys)
            logits.append(np.asarray(forward(batch.images), dtype=np.float32)[:real])
            keys += batch.keys
    finally:
        for module in was_training:
            module.training = True
    if not logits:
        return [], np.zeros((0, 0), dtype=np.float32)
    return keys, np.concatenate(logits)


def evaluate_samples(
    model: Predictor,
    samples: pd.DataFrame,
    root: Path,
    *,
    preprocess: Preprocess,
    classes: Sequence[str],
    batch_size: int,
    workers: int,
    model_name: str,
    split: str,
    engine: str,
    precision: str,
    inputs: Mapping[str, str],
    device: str = "cpu",
    channels_last: bool = False,
    amp: str = "off",
    max_bad: float = 0.0,
    fast: bool = False,
    thresholds: Sequence[float] | None = None,
) -> Evaluation:
    """Evaluate ``model`` on the labelled ``samples`` below ``root``.

    Samples of several labels are measured by mAP, and by F1 with the model's ``thresholds``.

    ``fast`` resizes by fixed-point arithmetic, a level off here and there: for a quick look, and
    said in the metrics (``exact``).

    A bad image is never replaced: more than ``max_bad`` of the list unreadable is a ``DataError``,
    and up to there each counts as wrong, so that every ratio divides by the number listed (of
    several labels: its positives are never found).
    Unlabelled samples are refused, and logits that are not finite a ``WeightsError``.
    """
    from hgnetv2_pipeline.data.lists.multi_label import is_multi_label
    from hgnetv2_pipeline.data.quarantine import Ledger
    from hgnetv2_pipeline.input.loader import eval_batches
    from hgnetv2_pipeline.input.workers import watch_workers

    if not len(samples):
        raise DataError(f"split {split!r} lists no image; check its list file")
    several = is_multi_label(samples)
    unlabelled = 0 if several else int(samples["label"].isna().sum())
    if unlabelled:
        raise DataError(
            f"{unlabelled} of {len(samples)} images of split {split!r} have no label; "
            "evaluation needs one for each"
        )
    ledger = Ledger(len(samples), max_bad)
    batches = eval_batches(
        samples, root, preprocess=preprocess, batch_size=batch_size, workers=workers,
        ledger=ledger, fast=fast,
    )  # fmt: skip
    with watch_workers():
        keys, logits = predict_logits(
            model,
            _shown(batches, len(samples), f"evaluate {split}"),
            preprocess=preprocess,
            device=device,
            channels_last=channels_last,
            amp=amp,
        )
    ledger.check()
    if not keys:
        raise DataError(f"none of the {len(samples)} images of split {split!r} can be read")
    lost = int((~np.isfinite(logits).all(axis=1)).sum())
    if lost:
        # Whatever would be counted of them is no answer of the model's.
        raise WeightsError(
            f"{model_name} ({engine}, {precision}) gives NaN or infinite logits for {lost} of "
            f"{len(keys)} images of split {split!r}"
        )
    if several:
        found, rows = _of_several_labels(samples, keys, logits, classes, thresholds)
    else:
        found, rows = _of_one_label(samples, keys, logits, classes)
    return Evaluation(
        metrics={
            "model": model_name,
            "split": split,
            "engine": engine,
            "precision": precision,
            **ledger.summary(),
            **found,
            "preprocess": preprocess.to_dict(),
            "exact": not fast,
            "inputs": dict(inputs),
        },
        rows=rows,
    )


def _of_one_label(
    samples: pd.DataFrame, keys: list[str], logits: NDArray[Any], classes: Sequence[str]
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Metrics by the number of images listed, and a row per image."""
    import pandas as pd

    labels = samples.set_index("key")["label"].loc[keys].to_numpy(dtype=np.int64)
    found = metrics.summarise(logits, labels, classes)
    listed = len(samples)
    for name in ("top1", "top5"):
        count = found[f"{name}_count"]
        found[name] = None if count is None else count / listed
    found["top1_interval"] = list(wilson_interval(found["top1_count"], listed))
    found["temperature_scaling"] = temperature_scaling(logits, labels)
    probabilities = metrics.softmax(logits)
    predicted = logits.argmax(axis=1)
    rows = pd.DataFrame(
        {
            "key": keys,
            "label": labels,
            "pred": predicted,
            "top1_prob": probabilities.max(axis=1),
            "label_prob": probabilities[np.arange(len(labels)), labels],
            "rank": metrics.ranks(logits, labels),
            "correct": predicted == labels,
        }
    )
    return found, rows


def _of_several_labels(
    samples: pd.DataFrame,
    keys: list[str],
    logits: NDArray[Any],
    classes: Sequence[str],
    thresholds: Sequence[float] | None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The same of mAP and F1; a row has the numbers of the classes and all probabilities."""
    import pandas as pd

    from hgnetv2_pipeline.data.lists.multi_label import label_matrix

    truth = label_matrix(samples)
    at = pd.Index(samples["key"]).get_indexer(keys)
    missed = truth.sum(axis=0, dtype=np.int64) - truth[at].sum(axis=0, dtype=np.int64)
    found = metrics.summarise_multi_label(logits, truth[at], classes, thresholds, missed)
    least = [row["threshold"] for row in found["per_class"]]
    probabilities = metrics.sigmoid(logits)
    predicted = probabilities >= np.asarray(least)
    rows = pd.DataFrame(
        {
            "key": keys,
            "labels": [np.flatnonzero(row).tolist() for row in truth[at]],
            "pred": [np.flatnonzero(row).tolist() for row in predicted],
            "probs": list(probabilities),
            "correct": (predicted == (truth[at] == 1)).all(axis=1),
        }
    )
    return {"task": "multi_label", **found}, rows


def _shown(batches: Iterable[Batch], total: int, what: str) -> Iterable[Batch]:
    from hgnetv2_pipeline.progress import Progress

    with Progress(total, what, "img") as progress:
        for batch in batches:
            yield batch
            progress.advance(len(batch.keys))


def _torch_forward(
    model: Any, preprocess: Preprocess, device: str, channels_last: bool, amp: str
) -> Callable[[Any], Any]:
    import torch

    from hgnetv2_pipeline.input.loader import normalise

    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    place = torch.device(device)
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def forward(images: torch.Tensor) -> NDArray[np.float32]:
        with (
            torch.inference_mode(),
            torch.autocast(place.type, dtypes.get(amp), enabled=amp != "off"),
        ):
            on_device = images.to(place, non_blocking=True)
            x = normalise(on_device, preprocess.mean, preprocess.std, torch.float32)
            return np.asarray(model(x.contiguous(memory_format=layout)).float().cpu().numpy())

    return forward


def _callable_forward(model: Predictor, preprocess: Preprocess) -> Callable[[Any], Any]:
    def forward(images: Any) -> Any:
        # [N, 3, H, W] uint8, channels last in memory: as NHWC it is the same bytes.
        nhwc = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
        return model(preprocess.normalize(nhwc))

    return forward
