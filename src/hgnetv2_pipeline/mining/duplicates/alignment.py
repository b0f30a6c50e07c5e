"""Laying a protected picture on a pool picture: small moves that bring their grey values together.

Gauss-Newton on the difference of the grey values (the inverse compositional form of Lucas and
Kanade, S. Baker and I. Matthews, "Lucas-Kanade 20 Years On", 2004), from coarse to fine, first as
a similarity and then as an affine move. Brightness and contrast are solved for at the same time,
and places that do not fit (a frame, a text) lose their weight. OpenCV's ECC, with neither of these
and with all six freedoms from the start, left about a tenth of the framed copies unaligned.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hgnetv2_pipeline.mining.duplicates.grey_image import SIDE, GreyImage

Matrix = NDArray[np.float64]

# Side, freedom, most steps.
_PLAN = ((32, 4, 12), (64, 4, 12), (128, 4, 8), (128, 6, 4))
_LEAST_OVERLAP = 0.3
_OUTSIDE = -1000.0
_SETTLED = 0.002  # of half a side at 64 pixels
# How far an edit seen through the right view may still be from it. Unlike pictures are made alike
# by moves that go much farther.
_GROWTH = 1.7
_SHEAR = 0.8
_TURN_DEGREES = 10.0
_SHIFT = 0.12


def alignments(pool: GreyImage, protected: GreyImage, start: Matrix) -> Iterator[Matrix]:
    """Moves (2 x 3, pool picture -> protected picture, 128-pixel squares) to judge, finest first.

    The last one is ``start`` itself: on a picture with little to hold on to, every step may lead
    away from the truth. Moves that go too far from the start are left out.
    """
    found = [start]
    move = start
    for side, freedom, steps in _PLAN:
        better = _descend(pool, protected, rescale(move, side / SIDE), side, freedom, steps)
        if better is not None:
            move = rescale(better, SIDE / side)
            if side == SIDE:
                found.append(move)
    return (move for move in reversed(found) if _near(move, start))


def _near(move: Matrix, start: Matrix) -> bool:
    """Whether the move is the start but for what a real edit adds."""
    whole = np.linalg.inv(start[:, :2]) @ move[:, :2]
    growth = abs(np.linalg.det(whole))
    if not 1 / _GROWTH <= growth <= _GROWTH:
        return False
    widths = np.linalg.svd(whole, compute_uv=False)
    turn = np.degrees(np.arctan2(whole[1, 0] - whole[0, 1], whole[0, 0] + whole[1, 1]))
    middle = np.array([SIDE / 2 - 0.5, SIDE / 2 - 0.5, 1.0])
    shift = np.linalg.norm((move - start) @ middle) / SIDE
    return bool(widths[1] >= _SHEAR * widths[0] and abs(turn) <= _TURN_DEGREES and shift <= _SHIFT)


def _descend(
    pool: GreyImage, protected: GreyImage, move: Matrix, side: int, freedom: int, steps: int
) -> Matrix | None:
    """The move after some steps at one size; None if nothing was left to hold on to."""
    import cv2

    image = protected.level(side)
    slopes = pool.slopes(side, freedom)
    target = slopes[-1]
    half = side / 2
    pixels = np.array([[half, 0, half - 0.5], [0, half, half - 0.5], [0, 0, 1]])
    whole = np.vstack([move, [0.0, 0.0, 1.0]])
    fit: NDArray[np.float32] | None = None
    for _ in range(steps):
        seen = cv2.warpAffine(
            image, whole[:2], (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT, borderValue=_OUTSIDE,
        ).ravel()  # fmt: skip
        inside = seen > -0.5
        if inside.mean() < _LEAST_OVERLAP:
            return None
        weight = inside.astype(np.float32) if fit is None else inside * fit
        total = float(weight.sum())
        seen = seen - weight @ seen / total
        aim = target - weight @ target / total
        strength, contrast = float(weight @ (seen * seen)), float(weight @ (aim * aim))
        if min(strength, contrast) < 1e-3:
            return None  # flat
        rest = seen * np.sqrt(contrast / strength) - aim
        weighed = slopes * weight
        normal = weighed @ slopes.T
        normal[np.diag_indices_from(normal)] *= 1.0001
        try:
            by = np.linalg.solve(normal.astype(np.float64), (weighed @ rest).astype(np.float64))
        except np.linalg.LinAlgError:
            return None
        if freedom == 4:
            step = np.array([[1 + by[0], -by[1], by[2]], [by[1], 1 + by[0], by[3]], [0, 0, 1]])
        else:
            step = np.array([[1 + by[0], by[1], by[2]], [by[3], 1 + by[4], by[5]], [0, 0, 1]])
        if not np.isfinite(step).all() or abs(np.linalg.det(step)) < 0.2:
            return None
        whole = whole @ pixels @ np.linalg.inv(step) @ np.linalg.inv(pixels)
        spread = max(2.5 * 1.48 * float(np.median(np.abs(rest[inside]))), 1.0)
        fit = np.where(inside, 1 / (1 + (rest / spread) ** 2), 1).astype(np.float32)
        if np.abs(by[:freedom]).max() < _SETTLED * 64 / side:
            break
    return whole[:2]


def warp(image: NDArray[np.float32], move: Matrix) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The picture seen through a move, and where it has pixels well inside itself."""
    import cv2

    seen = cv2.warpAffine(
        image, move, image.shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT, borderValue=_OUTSIDE,
    )  # fmt: skip
    inside = cv2.erode((seen > -0.5).astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1)
    return np.asarray(seen, dtype=np.float32), np.asarray(inside, dtype=np.bool_)


def rescale(move: Matrix, factor: float) -> Matrix:
    """The same move for pictures ``factor`` times as large (pixel centres are at halves)."""
    linear, shift = move[:, :2], move[:, 2]
    half = np.full(2, 0.5)
    return np.column_stack([linear, factor * (shift + half - linear @ half) - half + linear @ half])
