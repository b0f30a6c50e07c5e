"""Is this pool picture a copy of that protected one? Two independent looks at the pixels.

Photographs: an affine alignment (ECC) that starts from the view whose hash matched, judged by the
correlation of the aligned pictures and of their fine detail; where that does not settle it, SIFT
key points under a similarity (RANSAC). Small pictures have no key points, and an affine warp makes
different small shapes alike, so those are compared in place, pixel by pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgnetv2_pipeline.mining.views import square, view_matrix

_LEVELS = (48, 128)
_SIFT_SIDE = 256
_DETAIL_SIGMA, _SMALL_DETAIL_SIGMA = 4.0, 2.0
_ITERATIONS = 40
_RANSAC_PIXELS = 4.0
_SCALES = (0.4, 2.5)
_LEAST_OVERLAP = 0.35


@dataclass(frozen=True)
class Thresholds:
    """When a look at the pixels makes two pictures the same.

    A pair is a copy if its ``inliers`` reach ``sift_inliers``, or its correlation and its
    correlation of fine detail both reach their limits; it is left to a person if it reaches the
    ``review_`` limits. Pictures whose shorter side is at most ``small_side`` pixels, compared in
    place, have limits of their own. The limits lie above the nearest pairs of different pictures
    met: smooth tiles of photographs (0.974 with a detail of 0.72, 13 key points that agree) and
    handwritten digits (two of 1,457 above 0.99 with 0.97).
    """

    sift_inliers: int = 16
    correlation: float = 0.97
    high_pass: float = 0.75
    review_inliers: int = 12
    review_correlation: float = 0.95
    review_high_pass: float = 0.5
    small_side: int = 64
    small_correlation: float = 0.99
    small_high_pass: float = 0.97
    small_review_correlation: float = 0.985
    small_review_high_pass: float = 0.955


@dataclass(frozen=True)
class Evidence:
    """What the pixels say: matching key points, correlation, correlation of fine detail."""

    inliers: int = 0
    correlation: float = 0.0
    high_pass: float = 0.0
    small: bool = False

    def decision(self, limits: Thresholds) -> str:
        """``remove``, ``review`` or ``keep``."""
        if self.small:
            sure = (limits.small_correlation, limits.small_high_pass)
            unsure = (limits.small_review_correlation, limits.small_review_high_pass)
        else:
            sure = (limits.correlation, limits.high_pass)
            unsure = (limits.review_correlation, limits.review_high_pass)
        if self._reaches(sure) or (not self.small and self.inliers >= limits.sift_inliers):
            return "remove"
        if self._reaches(unsure) or (not self.small and self.inliers >= limits.review_inliers):
            return "review"
        return "keep"

    def _reaches(self, limits: tuple[float, float]) -> bool:
        return self.correlation >= limits[0] and self.high_pass >= limits[1]


class Picture:
    """A grey picture, uint8 [H, W], with what comparing it needs, each made once."""

    def __init__(self, grey: NDArray[np.uint8]) -> None:
        self.grey = grey

    @cached_property
    def aligned_size(self) -> NDArray[np.uint8]:
        """The whole picture at the size of the alignment."""
        return square(self.grey, _LEVELS[-1])

    def key_points(self, mirrored: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """SIFT key points [n, 2] and descriptors [n, 128] of the picture or its mirror image."""
        return self._mirrored_points if mirrored else self._points

    @cached_property
    def _points(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return _sift(self.grey)

    @cached_property
    def _mirrored_points(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return _sift(np.ascontiguousarray(self.grey[:, ::-1]))


def compare(pool: Picture, protected: Picture, view: int, limits: Thresholds) -> Evidence:
    """Evidence that ``pool`` is a copy of ``protected``, whose ``view`` has a hash like its own."""
    if min(pool.grey.shape + protected.grey.shape) <= limits.small_side:
        return _in_place(pool, protected, mirrored=bool(view % 2))
    correlation, high_pass = _aligned(pool, protected, view)
    found = Evidence(0, correlation, high_pass)
    if found.decision(limits) == "remove":
        return found
    return Evidence(_inliers(pool, protected, bool(view % 2)), correlation, high_pass)


def _in_place(pool: Picture, protected: Picture, *, mirrored: bool) -> Evidence:
    import cv2

    twin = protected.grey[:, ::-1] if mirrored else protected.grey
    height, width = twin.shape
    grey = pool.grey
    if grey.shape != twin.shape:
        sized = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
        grey = np.asarray(sized, dtype=np.uint8)
    correlation, high_pass = _alike(
        grey, twin, np.ones(twin.shape, dtype=bool), _SMALL_DETAIL_SIGMA
    )
    return Evidence(correlation=correlation, high_pass=high_pass, small=True)


def _aligned(pool: Picture, protected: Picture, view: int) -> tuple[float, float]:
    """Correlation of the pictures and of their fine detail after an affine alignment."""
    import cv2

    template, image = pool.aligned_size, protected.aligned_size
    side = _LEVELS[-1]
    warp = view_matrix(view, side)
    # Where the view shows a frame, the pool picture's frame must not draw the alignment.
    _, footprint = _warped(image, warp)
    calm = np.where(footprint, template, template[footprint].mean()).astype(np.uint8)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, _ITERATIONS, 1e-4)
    for level in _LEVELS:
        everywhere = np.full((level, level), 255, np.uint8)
        try:
            _, found = cv2.findTransformECC(
                square(calm, level),
                square(image, level),
                _rescaled(warp, level / side).astype(np.float32),
                cv2.MOTION_AFFINE,
                criteria,
                everywhere,
                5,
            )
        except cv2.error:
            continue  # it did not converge: the next level, or the judgement, takes what there is
        warp = _rescaled(np.asarray(found, dtype=np.float64), side / level)
    moved, mask = _warped(image, warp)
    if mask.mean() < _LEAST_OVERLAP:
        return 0.0, 0.0
    return _alike(template, moved, mask, _DETAIL_SIGMA)


def _warped(
    image: NDArray[np.uint8], warp: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The picture seen through a warp, and where it has pixels well inside itself."""
    import cv2

    size = image.shape[::-1]
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(image, warp, size, flags=how)
    inside = cv2.warpAffine(np.full_like(image, 255), warp, size, flags=how)
    mask = cv2.erode(inside, np.ones((5, 5), np.uint8), borderValue=255) == 255
    return np.asarray(moved, dtype=np.uint8), np.asarray(mask)


def _rescaled(warp: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """The same warp for pictures ``factor`` times as large (pixel centres lie at halves)."""
    linear, shift = warp[:, :2], warp[:, 2]
    half = np.full(2, 0.5)
    return np.column_stack([linear, factor * (shift + half - linear @ half) - half + linear @ half])


def _inliers(pool: Picture, protected: Picture, mirrored: bool) -> int:
    """Key points that agree on one similarity between the pictures."""
    import cv2

    points, words = pool.key_points(False)
    twin_points, twin_words = protected.key_points(mirrored)
    if len(points) < 3 or len(twin_points) < 3:
        return 0
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(words, twin_words, k=2)
    good = [best for best, second in pairs if best.distance < 0.75 * second.distance]
    if len(good) < 3:
        return 0
    matrix, inside = cv2.estimateAffinePartial2D(
        points[[match.queryIdx for match in good]],
        twin_points[[match.trainIdx for match in good]],
        method=cv2.RANSAC,
        ransacReprojThreshold=_RANSAC_PIXELS,
    )
    if matrix is None:
        return 0
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    return int(inside.sum()) if _SCALES[0] <= scale <= _SCALES[1] else 0


def _sift(grey: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    import cv2

    scale = _SIFT_SIDE / max(grey.shape)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    sized = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=how)
    create: Any = cv2.SIFT_create  # type: ignore[attr-defined]  # absent from the stubs only
    detector = create(nfeatures=400, contrastThreshold=0.01)
    points, words = detector.detectAndCompute(sized, None)
    if words is None:
        return np.empty((0, 2), np.float32), np.empty((0, 128), np.float32)
    return np.array([point.pt for point in points], dtype=np.float32), words


def _alike(
    first: NDArray[np.uint8], second: NDArray[np.uint8], mask: NDArray[np.bool_], sigma: float
) -> tuple[float, float]:
    """Correlation inside the mask of two pictures, and of what a blur of ``sigma`` takes away."""
    import cv2

    plain, detail = [], []
    for picture in (first, second):
        # What lies outside must not leak in through the blur.
        filled = np.where(mask, picture, picture[mask].mean()).astype(np.float32)
        plain.append(filled[mask])
        detail.append((filled - cv2.GaussianBlur(filled, (0, 0), sigma))[mask])
    return _correlation(*plain), _correlation(*detail)


def _correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Pearson correlation; a flat picture correlates with nothing."""
    a, b = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / norm) if norm > 1e-6 else 0.0
