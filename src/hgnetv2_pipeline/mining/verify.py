"""Is this pool picture a copy of that protected one? Two independent looks at the pixels.

Photographs: an affine alignment (ECC) that starts from the view whose hash matched, judged by the
correlation of the aligned pictures and of their fine detail; where that does not settle it, SIFT
key points under a similarity (RANSAC). Small pictures have no key points, and an affine warp makes
different small shapes alike, so those are compared in place, pixel by pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hgnetv2_pipeline.mining.views import square, view_matrix

_ECC_SIDE = 128
_SIFT_SIDE = 256
_DETAIL_SIGMA = 2.0
_ITERATIONS = 40
_RANSAC_PIXELS = 4.0
_SCALES = (0.4, 2.5)
_LEAST_OVERLAP = 0.35


@dataclass(frozen=True)
class Thresholds:
    """When a look at the pixels makes two pictures the same.

    A pair is a copy if ``inliers`` reaches ``sift_inliers``, or if ``correlation`` and
    ``high_pass`` both reach their limits; it is left to a person if it falls short of that by no
    more than ``margin`` of the way (a share of each limit's distance from zero evidence).
    Pictures whose shorter side is at most ``small_side`` pixels have limits of their own.
    """

    sift_inliers: int = 12
    correlation: float = 0.97
    high_pass: float = 0.6
    small_side: int = 64
    small_correlation: float = 0.98
    small_high_pass: float = 0.9
    margin: float = 0.1


@dataclass(frozen=True)
class Evidence:
    """What the pixels say: matching key points, correlation, correlation of fine detail."""

    inliers: int = 0
    correlation: float = 0.0
    high_pass: float = 0.0
    small: bool = False

    def decision(self, limits: Thresholds) -> str:
        """``remove``, ``review`` or ``keep``."""
        if self._reaches(limits, 1.0):
            return "remove"
        return "review" if self._reaches(limits, 1.0 - limits.margin) else "keep"

    def _reaches(self, limits: Thresholds, share: float) -> bool:
        correlation = limits.small_correlation if self.small else limits.correlation
        detail = limits.small_high_pass if self.small else limits.high_pass
        # Correlations of unlike pictures are high already: the way to a copy is what is missing.
        enough = 1 - (1 - correlation) * (1 + 5 * (1 - share))
        if self.correlation >= enough and self.high_pass >= detail * share:
            return True
        return not self.small and self.inliers >= np.ceil(limits.sift_inliers * share)


class Picture:
    """A grey picture, uint8 [H, W], with what comparing it needs, each made once."""

    def __init__(self, grey: NDArray[np.uint8]) -> None:
        self.grey = grey

    @cached_property
    def aligned_size(self) -> NDArray[np.uint8]:
        """The whole picture at the size of the alignment."""
        return square(self.grey, _ECC_SIDE)

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
    """Evidence that ``pool`` is a copy of ``protected``, whose view number ``view`` looks like it."""
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
        grey = np.asarray(cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA))
    first, second = grey.astype(np.float32), twin.astype(np.float32)
    everywhere = np.ones(twin.shape, dtype=bool)
    return Evidence(
        correlation=_correlation(first, second, everywhere),
        high_pass=_correlation(_detail(first), _detail(second), everywhere),
        small=True,
    )


def _aligned(pool: Picture, protected: Picture, view: int) -> tuple[float, float]:
    """Correlation of the pictures and of their fine detail after an affine alignment."""
    import cv2

    template, image = pool.aligned_size, protected.aligned_size
    warp = view_matrix(view, _ECC_SIDE).astype(np.float32)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, _ITERATIONS, 1e-4)
    try:
        _, found = cv2.findTransformECC(
            template, image, warp.copy(), cv2.MOTION_AFFINE, criteria, None, 5
        )
        warp = np.asarray(found, dtype=np.float32)
    except cv2.error:
        pass  # the alignment did not converge: judge the view as it is
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (_ECC_SIDE, _ECC_SIDE)
    moved = cv2.warpAffine(image, warp, size, flags=how).astype(np.float32)
    inside = cv2.warpAffine(np.full_like(image, 255), warp, size, flags=how)
    mask = cv2.erode(inside, np.ones((7, 7), np.uint8)) == 255
    if mask.mean() < _LEAST_OVERLAP:
        return 0.0, 0.0
    still = template.astype(np.float32)
    return (
        _correlation(still, moved, mask),
        _correlation(_detail(still), _detail(moved), mask),
    )


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
    detector = cv2.SIFT_create(nfeatures=400, contrastThreshold=0.01)
    points, words = detector.detectAndCompute(sized, None)
    if words is None:
        return np.empty((0, 2), np.float32), np.empty((0, 128), np.float32)
    return np.array([point.pt for point in points], dtype=np.float32), words


def _detail(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a blur takes away: edges and texture, without shading."""
    import cv2

    return np.asarray(picture - cv2.GaussianBlur(picture, (0, 0), _DETAIL_SIGMA))


def _correlation(
    first: NDArray[np.float32], second: NDArray[np.float32], mask: NDArray[np.bool_]
) -> float:
    """Pearson correlation of two pictures inside a mask; flat pictures correlate with nothing."""
    a, b = first[mask] - first[mask].mean(), second[mask] - second[mask].mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / norm) if norm > 1e-6 else 0.0
