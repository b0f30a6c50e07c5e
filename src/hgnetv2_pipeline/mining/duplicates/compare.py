"""Is this pool picture a copy of that protected one? Two looks at the pixels, and their limits.

Photographs: the protected picture is laid on the pool picture, starting from the view whose hash
matched, and the two are correlated block by block. Where that does not settle it, SIFT key points
under a similarity (RANSAC) do, or name another place to start from. Small pictures have no key
points, and an affine move makes different small shapes alike, so those are compared in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgnetv2_pipeline.mining.duplicates.alignment import Matrix, alignments, warp
from hgnetv2_pipeline.mining.duplicates.grey_image import SIDE, GreyImage
from hgnetv2_pipeline.mining.duplicates.views import view_matrix

_SMALL_DETAIL_SIGMA = 2.0
_BLOCK = 16
_LEAST_CONTRAST, _MOST_CONTRAST = 0.5, 20.0
_LEAST_DETAIL, _MOST_DETAIL = 0.15, 10.0
_LEAST_BLOCKS = 6
# Less would let a repeated pattern be laid on itself a few rows on.
_LEAST_OVERLAP = 0.55
_RANSAC_PIXELS = 4.0
_SCALES = (0.4, 2.5)
_START_INLIERS = 6


def _shadings(*rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """An orthonormal base, float32 [256, k], of the shadings that a block may lose."""
    return np.linalg.qr(np.stack(rows, axis=1))[0].astype(np.float32)


_EVEN = np.ones(_BLOCK * _BLOCK, dtype=np.float32)
_RAMP = np.arange(_BLOCK, dtype=np.float32)
_FLAT = _shadings(_EVEN)
_SLOPED = _shadings(_EVEN, np.tile(_RAMP, _BLOCK), np.repeat(_RAMP, _BLOCK))


@dataclass(frozen=True)
class Thresholds:
    """When a look at the pixels makes two pictures the same.

    A pair is a copy if its ``inliers`` reach ``sift_inliers``, or if its ``correlation`` and its
    ``high_pass`` reach their limits: skies are alike in their shading, but not in their detail.
    Where the detail reaches ``sure_high_pass``, ``review_correlation`` will do. What reaches only a
    ``review_`` limit is left to a person. Pictures whose shorter side is at most ``small_side``
    pixels, compared in place, have limits of their own.

    Chosen on planted copies of photographs and on handwritten digits (two of 1,457 pairs of
    different digits are above 0.99 with 0.97). How near different photographs come is printed by
    ``benchmarks/bench_deduplicate.py``.
    """

    sift_inliers: int = 20
    correlation: float = 0.8
    high_pass: float = 0.3
    sure_high_pass: float = 0.8
    review_inliers: int = 12
    review_correlation: float = 0.7
    small_side: int = 64
    small_correlation: float = 0.99
    small_high_pass: float = 0.97
    small_review_correlation: float = 0.985
    small_review_high_pass: float = 0.955


@dataclass(frozen=True)
class Evidence:
    """What the pixels say.

    ``inliers``: key points that agree on one similarity. ``correlation``: of the aligned pictures,
    block by block (16 x 16 pixels of 128 x 128), the mean by the blocks' contrast; ``high_pass``:
    the same of what is left when each block loses its slope too. A small picture is one block, and
    its ``high_pass`` what a blur takes away. Each is 0 where too little is left to compare.
    """

    inliers: int = 0
    correlation: float = 0.0
    high_pass: float = 0.0
    small: bool = False

    def decision(self, limits: Thresholds) -> str:
        """``remove``, ``review`` or ``keep``."""
        if self.small:
            if self._both(limits.small_correlation, limits.small_high_pass):
                return "remove"
            unsure = self._both(limits.small_review_correlation, limits.small_review_high_pass)
            return "review" if unsure else "keep"
        if (
            self.inliers >= limits.sift_inliers
            or self._both(limits.correlation, limits.high_pass)
            or self._both(limits.review_correlation, limits.sure_high_pass)
        ):
            return "remove"
        unsure = (
            self.inliers >= limits.review_inliers or self.correlation >= limits.review_correlation
        )
        return "review" if unsure else "keep"

    def _both(self, correlation: float, high_pass: float) -> bool:
        return self.correlation >= correlation and self.high_pass >= high_pass


def compare(pool: GreyImage, protected: GreyImage, view: int, limits: Thresholds) -> Evidence:
    """Evidence that ``pool`` is a copy of ``protected``, whose ``view`` has a hash like its own."""
    if min(pool.grey.shape + protected.grey.shape) <= limits.small_side:
        return _in_place(pool, protected, mirrored=bool(view % 2))
    found = _aligned(pool, protected, view_matrix(view, SIDE))
    if found.decision(limits) == "remove":
        return found
    inliers, start = _key_points(pool, protected, mirrored=bool(view % 2))
    if start is not None and _START_INLIERS <= inliers < limits.sift_inliers:
        found = max(found, _aligned(pool, protected, start), key=lambda one: one.correlation)
    return Evidence(inliers, found.correlation, found.high_pass)


def _in_place(pool: GreyImage, protected: GreyImage, *, mirrored: bool) -> Evidence:
    import cv2

    twin = protected.grey[:, ::-1] if mirrored else protected.grey
    height, width = twin.shape
    grey = pool.grey
    if grey.shape != twin.shape:
        sized = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
        grey = np.asarray(sized, dtype=np.uint8)
    pair = [picture.astype(np.float32) for picture in (grey, twin)]
    detail = [one - cv2.GaussianBlur(one, (0, 0), _SMALL_DETAIL_SIGMA) for one in pair]
    return Evidence(correlation=_correlation(*pair), high_pass=_correlation(*detail), small=True)


def _aligned(pool: GreyImage, protected: GreyImage, start: Matrix) -> Evidence:
    """The best of the alignments that begin at ``start``."""
    best = Evidence()
    for move in alignments(pool, protected, start):
        seen, mask = warp(protected.squared, move)
        if mask.mean() < _LEAST_OVERLAP:
            continue
        inside = _blocks(mask).all(axis=1)
        pair = [_blocks(picture)[inside] for picture in (pool.squared, seen)]
        correlation = _block_correlation(pair, _FLAT, _LEAST_CONTRAST, _MOST_CONTRAST)
        if correlation > best.correlation:
            high_pass = _block_correlation(pair, _SLOPED, _LEAST_DETAIL, _MOST_DETAIL)
            best = Evidence(correlation=correlation, high_pass=high_pass)
    return best


def _block_correlation(
    pair: list[NDArray[np.float32]], shading: NDArray[np.float32], least: float, most: float
) -> float:
    """Mean correlation of the blocks [n, 256] that have contrast, less their shading.

    Contrast, in grey levels, is that of the duller of the two blocks; a block counts by it, up to
    ``most``. A block's correlation ignores its brightness and contrast, so that a shadow, a
    watermark or a text spoils the blocks it is on and no others.
    """
    a, b = (blocks - blocks @ shading @ shading.T for blocks in pair)
    contrast = [np.sqrt((blocks * blocks).mean(axis=1)) for blocks in (a, b)]
    weight = np.minimum(*contrast)
    kept = weight >= least
    if kept.sum() < _LEAST_BLOCKS:
        return 0.0
    each = (a * b).mean(axis=1)[kept] / (contrast[0] * contrast[1])[kept]
    return float(np.average(each, weights=np.minimum(weight[kept], most)))


def _blocks(picture: NDArray[Any]) -> NDArray[Any]:
    count = SIDE // _BLOCK
    cut = picture.reshape(count, _BLOCK, count, _BLOCK)
    return cut.transpose(0, 2, 1, 3).reshape(count * count, _BLOCK * _BLOCK)


def _key_points(
    pool: GreyImage, protected: GreyImage, *, mirrored: bool
) -> tuple[int, Matrix | None]:
    """Key points that agree on one similarity between the pictures, and that similarity."""
    import cv2

    points, words = pool.key_points(False)
    twin_points, twin_words = protected.key_points(mirrored)
    if len(points) < 3 or len(twin_points) < 3:
        return 0, None
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(words, twin_words, k=2)
    good = [best for best, second in pairs if best.distance < 0.75 * second.distance]
    if len(good) < 3:
        return 0, None
    matrix, inside = cv2.estimateAffinePartial2D(
        points[[match.queryIdx for match in good]],
        twin_points[[match.trainIdx for match in good]],
        method=cv2.RANSAC,
        ransacReprojThreshold=_RANSAC_PIXELS,
    )
    if matrix is None or not _SCALES[0] <= float(np.hypot(*matrix[:, 0])) <= _SCALES[1]:
        return 0, None
    between = np.vstack([matrix, [0.0, 0.0, 1.0]])
    width = protected.key_size[0]
    unmirror = np.array([[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]]) if mirrored else np.eye(3)
    start = protected.key_square @ unmirror @ between @ np.linalg.inv(pool.key_square)
    return int(inside.sum()), start[:2]


def _correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Pearson correlation; a flat picture correlates with nothing."""
    a, b = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / norm) if norm > 1e-6 else 0.0
