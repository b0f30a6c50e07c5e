"""A grey picture with what comparing it needs: smaller copies, slopes, key points, made once."""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgnetv2_pipeline.mining.duplicates.views import square

# Side of the square copy on which pictures are aligned and compared.
SIDE = 128
_KEY_SIDE = 256

Floats = NDArray[np.float32]


class GreyImage:
    """A grey picture, uint8 [H, W]."""

    def __init__(self, grey: NDArray[np.uint8]) -> None:
        self.grey = grey
        self._levels: dict[int, Floats] = {}
        self._slopes: dict[tuple[int, int], Floats] = {}

    @cached_property
    def squared(self) -> Floats:
        """The whole picture as float32 [128, 128], blurred a little for JPEG's sake."""
        import cv2

        whole = square(self.grey, SIDE).astype(np.float32)
        return np.asarray(cv2.GaussianBlur(whole, (0, 0), 1.5), dtype=np.float32)

    def level(self, side: int) -> Floats:
        """The whole picture as float32 [side, side], blurred by a pixel: slopes reach farther."""
        import cv2

        if side not in self._levels:
            small = square(self.grey, side).astype(np.float32)
            self._levels[side] = np.asarray(cv2.GaussianBlur(small, (0, 0), 1.0), dtype=np.float32)
        return self._levels[side]

    def slopes(self, side: int, freedom: int) -> Floats:
        """How the level's grey values answer to a small move, float32 [freedom + 2, side * side].

        ``freedom`` 4: growth, turn, shift right, shift down (a similarity); 6: an affine move. The
        last two rows are brightness and contrast. Places run from -1 to 1.
        """
        import cv2

        if (side, freedom) not in self._slopes:
            grey = self.level(side)
            right, down = (
                cv2.Scharr(grey, cv2.CV_32F, *axis, scale=side / 64).ravel()
                for axis in ((1, 0), (0, 1))
            )
            x, y = _places(side)
            if freedom == 4:
                moves = [right * x + down * y, down * x - right * y, right, down]
            else:
                moves = [right * x, right * y, right, down * x, down * y, down]
            rows = np.stack([*moves, np.ones_like(x), grey.ravel()])
            self._slopes[side, freedom] = rows.astype(np.float32)
        return self._slopes[side, freedom]

    def key_points(self, mirrored: bool) -> tuple[Floats, Floats]:
        """SIFT key points [n, 2] and descriptors [n, 128] of the picture or its mirror image.

        They are sought, and their places counted, on a copy of ``key_size``.
        """
        return self._mirrored_points if mirrored else self._points

    @property
    def key_size(self) -> tuple[int, int]:
        """Width and height of the copy on which key points are sought: 256 on the longer side."""
        height, width = self.grey.shape
        scale = _KEY_SIDE / max(height, width)
        return max(round(width * scale), 1), max(round(height * scale), 1)

    @property
    def key_square(self) -> NDArray[np.float64]:
        """3 x 3 matrix from places on that copy to places on the square of 128 pixels."""
        width, height = self.key_size
        x, y = SIDE / width, SIDE / height
        return np.array([[x, 0, x / 2 - 0.5], [0, y, y / 2 - 0.5], [0, 0, 1]])

    @cached_property
    def _points(self) -> tuple[Floats, Floats]:
        return _sift(self.grey, self.key_size)

    @cached_property
    def _mirrored_points(self) -> tuple[Floats, Floats]:
        return _sift(np.ascontiguousarray(self.grey[:, ::-1]), self.key_size)


@cache
def _places(side: int) -> tuple[Floats, Floats]:
    axis = (np.arange(side, dtype=np.float32) - (side - 1) / 2) / (side / 2)
    return np.tile(axis, side), np.repeat(axis, side)


def _sift(grey: NDArray[np.uint8], size: tuple[int, int]) -> tuple[Floats, Floats]:
    import cv2

    how = cv2.INTER_AREA if size[0] < grey.shape[1] else cv2.INTER_CUBIC
    create: Any = cv2.SIFT_create  # type: ignore[attr-defined]  # absent from the stubs only
    detector = create(nfeatures=400, contrastThreshold=0.01)
    sized = cv2.resize(grey, size, interpolation=how)
    points, words = detector.detectAndCompute(sized, None)
    if words is None:
        return np.empty((0, 2), np.float32), np.empty((0, 128), np.float32)
    return np.array([point.pt for point in points], dtype=np.float32), words
