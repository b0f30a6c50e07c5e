"""Fit a probe: features once, a linear classifier, how many held-out images it gets right."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from hgnetv2_pipeline.data.decode import Colour
from hgnetv2_pipeline.data.index import decoding_of
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.input.loader import eval_batches, normalised_view
from hgnetv2_pipeline.input.workers import watch_workers
from hgnetv2_pipeline.models.probe import Probe
from hgnetv2_pipeline.processor import keep_memory
from hgnetv2_pipeline.progress import Progress
from hgnetv2_pipeline.teacher.logistic import FOLDS, Classifier, fit_classifier
from hgnetv2_pipeline.teacher.self_training import ROUNDS, Features, SelfTraining, self_train
from hgnetv2_pipeline.variants import Fit
from hgnetv2_pipeline.weights.probes import build_trunk
from hgnetv2_pipeline.weights.source_names import SIMPLE

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)
CLOSER = 2
"""How many pixels a side a probe sees for one of the images: small ones are enlarged so far."""


@dataclass(frozen=True)
class ProbeConfig:
    """How a probe is fitted.

    Attributes:
        size: pixels a side that the network sees; None: ``probe_size``.
        fit: how an image becomes that square, see ``data.preprocess``.
        pad_colour: around it with fit pad; None: the mean colour of the network's own images.
        balanced: every class weighs the same.
        rounds: of self-training: how often images of the pool are chosen and learnt from.
        batch_size, workers: of reading the images.
        max_bad: share of unreadable images above which it stops.
    """

    size: int | None = None
    fit: Fit = "crop"
    pad_colour: Colour | None = None
    balanced: bool = False
    rounds: int = ROUNDS
    batch_size: int = 64
    workers: int = 0
    max_bad: float = 0.0


@dataclass(frozen=True)
class FittedProbe:
    """A probe, how its images are prepared, and what is known of it.

    Attributes:
        held_out_right: of ``images``, those that a classifier that had not seen them got right.
        features_seconds, fit_seconds: CPU seconds.
    """

    probe: Probe
    preprocess: Preprocess
    classifier: Classifier
    images: int
    held_out_right: int
    features_seconds: float
    fit_seconds: float


def probe_size(own: int, short_side: int) -> int:
    """Pixels a side for a network made for ``own`` and images of a median ``short_side``.

    Its own; of small images ``CLOSER`` times theirs, a multiple of 32, which takes less time: a
    network for 224 pixels gave .86 of held-out emoji of 64 pixels right at 224 and .82 at 128, in a
    quarter of the time.
    """
    return min(own, max(32, -(-CLOSER * short_side // 32) * 32))


def short_side(samples: pd.DataFrame) -> int:
    """The median short side of the images, in pixels."""
    return int(samples[["width", "height"]].min(axis=1).median())


def fit_probe(
    spec: str,
    samples: pd.DataFrame,
    root: Path,
    *,
    classes: Sequence[str],
    weights_root: Path,
    how: ProbeConfig | None = None,
    device: str = "cpu",
) -> FittedProbe:
    """A linear classifier on the features that the frozen network ``spec`` has of ``samples``.

    Args:
        spec: ``simple`` or ``timm:NAME`` with its weights, see ``weights.probes.build_trunk``.
        samples: labelled images, one label each.
        root: what their paths are relative to.
        classes: names, in the order of the labels.
        weights_root: what the weight file of ``spec`` is relative to.
        how: see there; None: its defaults.

    Raises:
        DataError: images without a label, a class without an image, features that are not finite.
        ParameterError, WeightsError: of ``spec``.
    """
    _check_labels(samples)
    how = how or ProbeConfig()
    probe, preprocess = unfitted_probe(spec, samples, len(classes), weights_root, how, device)
    began = time.process_time()
    features, labels = image_features(
        probe, samples, root, preprocess=preprocess, how=how, device=device,
    )  # fmt: skip
    _check_all_classes(labels, classes)
    extracted = time.process_time()
    classifier = fit_classifier(
        features, labels, len(classes), balanced=how.balanced, device=device
    )
    fitted = time.process_time()
    right = int((classifier.held_out.argmax(axis=1) == labels).sum())
    found = FittedProbe(
        _with_classifier(probe, classifier), preprocess, classifier, len(labels), right,
        extracted - began, fitted - extracted,
    )  # fmt: skip
    _log.info(
        "probe %s at %d pixels: %d of %d held-out images right (%.1f %%); features %.0f CPU-s, "
        "fitted in %.1f", spec, preprocess.crop, right, len(labels), 100 * right / len(labels),
        found.features_seconds, found.fit_seconds,
    )  # fmt: skip
    if min(np.bincount(labels)) < FOLDS:
        _log.warning("a class has fewer than %d images: its probabilities are guesses", FOLDS)
    return found


def held_out_probabilities(
    spec: str,
    samples: pd.DataFrame,
    root: Path,
    *,
    classes: Sequence[str],
    weights_root: Path,
    how: ProbeConfig | None = None,
    device: str = "cpu",
) -> NDArray[np.float64]:
    """Probabilities [N, C] that probes give to images that they had not seen, each in its fold.

    Args and errors as of ``fit_probe``; a class may be without images here. A row is NaN where the
    image cannot be read.
    """
    _check_labels(samples)
    how = how or ProbeConfig()
    probe, preprocess = unfitted_probe(spec, samples, len(classes), weights_root, how, device)
    # The row in place of the label, since what cannot be read is left out.
    numbered = samples.assign(label=np.arange(len(samples)))
    features, rows = image_features(
        probe, numbered, root, preprocess=preprocess, how=how, device=device
    )
    labels = samples["label"].to_numpy(np.int64)[rows]
    fitted = fit_classifier(features, labels, len(classes), balanced=how.balanced, device=device)
    answers = np.full((len(samples), len(classes)), np.nan)
    answers[rows] = np.exp(fitted.held_out.astype(np.float64))
    return answers


def self_train_probes(
    specs: Sequence[str],
    samples: pd.DataFrame,
    pool: pd.DataFrame,
    root: Path,
    *,
    classes: Sequence[str],
    weights_root: Path,
    how: ProbeConfig | None = None,
    device: str = "cpu",
) -> tuple[SelfTraining, dict[str, tuple[Probe, Preprocess]]]:
    """Probes trained on labelled and on unlabelled images; see ``self_training.self_train``.

    Args:
        specs, samples, root, classes, weights_root, how: as of ``fit_probe``.
        pool: unlabelled images.

    Returns what was found, and each probe that took part with its preprocessing, by its spec.

    Raises:
        DataError, ParameterError, WeightsError: as ``fit_probe``.
    """
    _check_labels(samples)
    how, unlabelled = how or ProbeConfig(), pool.assign(label=0)
    probes: list[tuple[Probe, Preprocess]] = []
    seen, labels = [], np.zeros(0, np.int64)
    for spec in specs:
        probe, preprocess = unfitted_probe(spec, samples, len(classes), weights_root, how, device)
        labelled, labels = image_features(
            probe, samples, root, preprocess=preprocess, how=how, device=device
        )
        others, _ = image_features(
            probe, unlabelled, root, preprocess=preprocess, how=how, device=device
        )
        seen.append(Features(labelled, others))
        probes.append((probe, preprocess))
    _check_all_classes(labels, classes)
    found = self_train(
        seen, labels, len(classes), balanced=how.balanced, rounds=how.rounds, device=device
    )
    _log.info(
        "self-training: %s learnt from %d of %d pool images; of %d labelled images that a "
        "rehearsal held out, %d were right before and %d after",
        " and ".join(specs[one] for one in found.partners), found.taken, len(pool),
        found.held_out, found.right_before, found.right_after,
    )  # fmt: skip
    trained = {}
    for one, classifier in zip(found.partners, found.classifiers, strict=True):
        probe, preprocess = probes[one]
        trained[specs[one]] = (_with_classifier(probe, classifier), preprocess)
    return found, trained


def _check_labels(samples: pd.DataFrame) -> None:
    if samples["label"].isna().any():
        raise DataError("a probe needs a label for every image")


def _check_all_classes(labels: NDArray[np.int64], classes: Sequence[str]) -> None:
    missing = sorted(set(range(len(classes))) - set(labels.tolist()))
    if missing:
        raise DataError(f"class {classes[missing[0]]!r} has no readable image to fit a probe on")


def unfitted_probe(
    spec: str, samples: pd.DataFrame, classes: int, weights_root: Path, how: ProbeConfig,
    device: str,
) -> tuple[Probe, Preprocess]:  # fmt: skip
    """A frozen network on ``device``, its classifier yet to be fitted, and its preprocessing."""
    trunk, number, known = build_trunk(spec, weights_root)
    own = Preprocess.from_dict(known["preprocess"])
    side = min(own.size)
    if not known["fixed"]:
        side = how.size or probe_size(side, short_side(samples))
    if known["fixed"] and how.size not in (None, side) and spec != SIMPLE:
        raise ParameterError(
            f"{spec} takes images of {side} pixels alone; set train_teacher.probe_size to that or "
            "to null"
        )
    preprocess = dataclasses.replace(
        own.reading(decoding_of(samples)), resize_short=side, crop=side, fit=how.fit,
        pad_colour=how.pad_colour,
    )  # fmt: skip
    probe = Probe(trunk, number, classes, size=side).eval().requires_grad_(False)
    probe.to(torch.device(device), memory_format=torch.channels_last)
    if device == "cpu":
        keep_memory()
    return probe, preprocess


def _with_classifier(probe: Probe, classifier: Classifier) -> Probe:
    """``probe`` on the CPU, with the weights that were found."""
    with torch.no_grad():
        probe.fc.weight.copy_(torch.from_numpy(classifier.weight))
        probe.fc.bias.copy_(torch.from_numpy(classifier.bias))
    probe.cpu()
    return probe


def image_features(
    probe: Probe,
    samples: pd.DataFrame,
    root: Path,
    *,
    preprocess: Preprocess,
    how: ProbeConfig,
    device: str,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features float32 [N, D] and labels [N] of the samples that can be read."""
    ledger = Ledger(len(samples), how.max_bad)
    features, labels = [], []
    batches = eval_batches(
        samples,
        root,
        preprocess=preprocess,
        batch_size=how.batch_size,
        workers=how.workers,
        ledger=ledger,
    )
    view = normalised_view(preprocess, channels_last=True)
    with (
        watch_workers(),
        torch.inference_mode(),
        Progress(len(samples), "features", "img") as progress,
    ):
        for batch in batches:
            seen = probe.features(view(batch.images.to(device)))
            features.append(seen.float().cpu().numpy())
            labels.append(batch.labels.numpy().astype(np.int64))
            progress.advance(len(batch.keys))
    ledger.check("train_teacher.recipe.max_bad")
    return np.concatenate(features), np.concatenate(labels)
