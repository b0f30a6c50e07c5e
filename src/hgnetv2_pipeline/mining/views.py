"""The views under which a protected picture is hashed, so that an edited copy still meets one.

Hashing 28 views of the small side costs little, since the pool is hashed once. A plain hash finds
about a fifth of randomly cropped, rotated or framed copies; the views find most of them, and name
the geometry from which the verification starts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.mining.phash import perceptual_hash

VIEW_COUNT = 28
_ROTATION_DEGREES = 8.0
_INSET = 0.86
_CROPS = (0.9, 0.78)


def view_matrix(view: int, side: int) -> NDArray[np.float64]:
    """Affine 2 x 3 matrix of a view on a square picture of ``side`` pixels: view -> picture.

    Views come in pairs, plain (even) and mirrored (odd): the whole, an inset (the picture in a
    frame), two rotations, five crops of 0.9 and five of 0.78 (centre and corners).
    """
    shape, mirrored = divmod(view, 2)
    last = side - 1.0
    centre = last / 2
    scale, angle, where = 1.0, 0.0, (0.5, 0.5)
    if shape == 1:
        scale = 1 / _INSET
    elif shape in (2, 3):
        angle = np.deg2rad(_ROTATION_DEGREES if shape == 2 else -_ROTATION_DEGREES)
    elif shape >= 4:
        scale = _CROPS[(shape - 4) // 5]
        where = ((0.5, 0.5), (0, 0), (1, 0), (0, 1), (1, 1))[(shape - 4) % 5]
    # The middle of the view lies here in the picture.
    middle = [centre + (1 - scale) * last * (fraction - 0.5) for fraction in where]
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]])
    if mirrored:
        linear[:, 0] *= -1
    shift = np.array(middle) - linear @ np.array([centre, centre])
    return np.column_stack([linear, shift])


def square(grey: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The whole picture as ``side`` x ``side``, whatever its proportions."""
    import cv2

    smaller = min(grey.shape) > side
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(grey, (side, side), interpolation=how), dtype=np.uint8)


def view_hashes(grey: NDArray[np.uint8], count: int = VIEW_COUNT) -> NDArray[np.uint64]:
    """Hashes of the first ``count`` views of a grey picture, uint64 [count].

    The first view is the picture itself (its hash is the plain one), the second its mirror image.
    """
    import cv2

    if not 1 <= count <= VIEW_COUNT:
        raise ParameterError(
            f"views must be from 1 to {VIEW_COUNT}, not {count} (--params mining.dedup.views=...)"
        )
    # Four times the hash's side: enough for a smooth warp, little enough to be quick.
    base = square(grey, 128)
    hashes = [perceptual_hash(grey)]
    for view in range(1, count):
        picture = cv2.warpAffine(
            base,
            view_matrix(view, base.shape[0]),
            base.shape[::-1],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=0,
        )
        hashes.append(perceptual_hash(picture))
    return np.array(hashes, dtype=np.uint64)
