"""Multinomial logistic regression on features, its L2 chosen by cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hgnetv2_pipeline.errors import DataError

L2 = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
"""Penalties tried, on features scaled to a standard deviation of 1; the largest first."""
FOLDS = 5
_ITERATIONS = 150
_TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class Classifier:
    """A linear classifier ``features @ weight.T + bias`` and how it was found.

    Attributes:
        weight: float32 [C, D]; scaling of the features and temperature are in it.
        bias: float32 [C].
        l2: the penalty that was chosen.
        temperature: what the logits were divided by, so that probabilities are calibrated.
        held_out: float32 [N, C], log-probabilities of each image by a classifier that had not seen
            it (its fold held out), with ``temperature`` applied.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    l2: float
    temperature: float
    held_out: NDArray[np.float32]


def fit_classifier(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    classes: int,
    *,
    balanced: bool = False,
    l2: Sequence[float] = L2,
    folds: int = FOLDS,
    device: str = "cpu",
) -> Classifier:
    """Fit on all images; L2 by the log-loss, temperature by the answers, of held-out folds.

    Args:
        features: [N, D].
        labels: [N], from 0 to ``classes - 1``; each class of the data needs an image.
        classes: columns of the result.
        balanced: every class weighs the same, however many images it has.
        l2: penalties to choose among.
        folds: parts of the images; each class is spread over them in order of the rows.
        device: where it is computed, in float32; on a CPU in float64.

    Raises:
        DataError: features are not finite, a label is out of range, or there is one class.
    """
    _check(features, labels, classes)
    scale = Scaling.of(features, device)
    x = scale.apply(features)
    y = torch.as_tensor(labels, device=device)
    weights = _weights(y, classes, balanced)
    fold = folds_of(labels, folds)
    held_out = {value: x.new_zeros(len(x), classes) for value in l2}
    for number in np.unique(fold):
        inside = torch.as_tensor(fold != number, device=device)
        start = x.new_zeros(classes, x.shape[1] + 1)
        for value in l2:  # each starts from the one before, which is near
            start = _minimise(x[inside], y[inside], weights[inside], value, start)
            held_out[value][~inside] = _logits(x[~inside], start)
    losses = {value: _loss(answers, y, weights) for value, answers in held_out.items()}
    best = min(losses, key=lambda value: losses[value])
    temperature = _temperature(held_out[best], y, weights)
    solution = x.new_zeros(classes, x.shape[1] + 1)
    for value in [one for one in l2 if one >= best]:
        solution = _minimise(x, y, weights, value, solution)
    log_probability = (held_out[best] / temperature).log_softmax(dim=1).float().cpu().numpy()
    return Standardised(scale, solution, best).classifier(temperature, log_probability)


@dataclass(frozen=True)
class Scaling:
    """What makes features have mean 0 and a standard deviation of 1, each [D]."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: NDArray[np.floating], device: str) -> Scaling:
        """From features [N, D]; what hardly varies is noise once it is scaled up, and is left out.

        Computed in float32; on a CPU in float64.
        """
        x = _as_tensor(features, device)
        mean, spread = x.mean(dim=0), x.std(dim=0, unbiased=False)
        scale = torch.where(spread > 1e-4 * spread.max(), 1 / spread.clamp_min(1e-12), 0.0)
        return cls(mean, scale)

    def apply(self, features: NDArray[np.floating]) -> Tensor:
        """Scaled features [N, D]."""
        return (_as_tensor(features, str(self.mean.device)) - self.mean) * self.scale


def _as_tensor(features: NDArray[np.floating], device: str) -> Tensor:
    kind = torch.float64 if device == "cpu" else torch.float32
    return torch.as_tensor(np.asarray(features), device=device).to(kind)


@dataclass(frozen=True)
class Standardised:
    """A classifier on scaled features: ``solution`` is [C, D + 1], biases last."""

    scale: Scaling
    solution: Tensor
    l2: float

    @classmethod
    def fit(
        cls,
        features: NDArray[np.floating],
        labels: NDArray[np.int64],
        classes: int,
        *,
        l2: float,
        balanced: bool = False,
        device: str = "cpu",
        weights: NDArray[np.floating] | None = None,
        start: Standardised | None = None,
    ) -> Standardised:
        """Fit with a known penalty.

        ``weights`` [N] are what each image counts. ``start``: a classifier that is near, of which
        the scaling of the features is taken; the minimum is found in fewer steps.
        """
        _check(features, labels, classes)
        scale = start.scale if start else Scaling.of(features, device)
        x, y = scale.apply(features), torch.as_tensor(labels, device=device)
        each = _weights(y, classes, balanced)
        if weights is not None:
            each = each * torch.as_tensor(weights, device=device)
            each = each * (len(each) / each.sum())
        near = start.solution if start else x.new_zeros(classes, x.shape[1] + 1)
        return cls(scale, _minimise(x, y, each, l2, near), l2)

    def logits(self, features: NDArray[np.floating]) -> NDArray[np.floating]:
        """[N, C], in the precision of the fit."""
        found: NDArray[np.floating] = (
            _logits(self.scale.apply(features), self.solution).cpu().numpy()
        )
        return found

    def classifier(
        self, temperature: float, held_out: NDArray[np.float32] | None = None
    ) -> Classifier:
        """The same on features as they are, its logits divided by ``temperature``."""
        weight = self.solution[:, :-1] * self.scale.scale / temperature
        bias = self.solution[:, -1] / temperature - weight @ self.scale.mean
        none = np.zeros((0, len(bias)), dtype=np.float32)
        return Classifier(
            weight=weight.float().cpu().numpy(),
            bias=bias.float().cpu().numpy(),
            l2=self.l2,
            temperature=temperature,
            held_out=none if held_out is None else held_out,
        )


def calibrated(
    logits: NDArray[np.floating], labels: NDArray[np.int64], classes: int, balanced: bool = False
) -> tuple[float, NDArray[np.float32]]:
    """The temperature with the least log-loss, and the log-probabilities [N, C] with it."""
    answers, y = torch.as_tensor(logits), torch.as_tensor(labels)
    temperature = _temperature(answers, y, _weights(y, classes, balanced))
    return temperature, (answers / temperature).log_softmax(dim=1).float().numpy()


def _check(features: NDArray[np.floating], labels: NDArray[np.int64], classes: int) -> None:
    if features.ndim != 2 or len(features) != len(labels) or not len(labels):
        raise DataError(f"features {features.shape} and {len(labels)} labels do not fit each other")
    if not np.isfinite(features).all():
        rows = np.flatnonzero(~np.isfinite(features).all(axis=1))
        raise DataError(
            f"the features of {len(rows):,} of {len(features):,} images are not finite: the "
            "network's weights are damaged, or its precision is too narrow"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"labels {labels.min()} to {labels.max()} do not fit {classes} classes")
    if len(np.unique(labels)) < 2:
        raise DataError("there is one class: there is nothing to choose between")


def _weights(labels: Tensor, classes: int, balanced: bool) -> Tensor:
    """[N] with mean 1."""
    counts = torch.bincount(labels, minlength=classes).double()
    each = (1 / counts.clamp_min(1))[labels] if balanced else torch.ones_like(labels).double()
    return each * (len(each) / each.sum())


def folds_of(labels: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """The fold [N] of each image: the images of a class take turns."""
    fold = np.zeros(len(labels), dtype=np.int64)
    for one in np.unique(labels):
        places = np.flatnonzero(labels == one)
        fold[places] = (np.arange(len(places)) + one) % folds
    return fold


def _logits(x: Tensor, solution: Tensor) -> Tensor:
    return x @ solution[:, :-1].T + solution[:, -1]


def _loss(logits: Tensor, labels: Tensor, weights: Tensor) -> float:
    each = functional.cross_entropy(logits, labels, reduction="none")
    return float((each * weights).mean())


def _minimise(x: Tensor, y: Tensor, weights: Tensor, l2: float, start: Tensor) -> Tensor:
    """The minimum [C, D + 1] of mean log-loss and ``l2 / 2`` times the squared weights."""
    solution = start.clone().requires_grad_()
    search = torch.optim.LBFGS(
        [solution],
        max_iter=_ITERATIONS,
        tolerance_grad=1e-5,
        tolerance_change=1e-9,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def value() -> Tensor:
        search.zero_grad()
        each = functional.cross_entropy(_logits(x, solution), y, reduction="none")
        loss = (each * weights).mean() + l2 / 2 * solution[:, :-1].square().sum()
        loss.backward()
        return loss

    search.step(value)
    return solution.detach()


def _temperature(logits: Tensor, labels: Tensor, weights: Tensor) -> float:
    """What held-out ``logits`` are best divided by: the least log-loss."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log: _loss(logits / float(np.exp(log)), labels, weights),
        bounds=tuple(np.log(_TEMPERATURES)),
        method="bounded",
    )
    return float(np.exp(found.x))
