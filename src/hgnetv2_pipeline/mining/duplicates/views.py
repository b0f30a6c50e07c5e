"""The views under which a protected picture is hashed, so that an edited copy still meets one.

Hashing 28 views of the small side costs little, since the pool is hashed once. A plain hash finds
about a fifth of randomly cropped, rotated or framed copies; the views find most of them, and name
the geometry from which the verification starts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hgnetv2_pipeline.data.perceptual import phash64
from hgnetv2_pipeline.errors import ParameterError

VIEW_COUNT = 64
_INSET = 0.86
_ROTATION_DEGREES = 8.0
_CORNERS = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
_EDGES = ((0.0, 0.5), (1.0, 0.5), (0.5, 0.0))


@dataclass(frozen=True)
class _Shape:
    """Scale of the cut (above 1: a frame shows), turn, place (0..1), brightness outside."""

    scale: float = 1.0
    degrees: float = 0.0
    place: tuple[float, float] = (0.5, 0.5)
    outside: int = 0


# Dark and light frames make very different hashes, so each has its view. The cuts are those that
# caught most copies cut at random places, for this number of views.
_SHAPES = (
    _Shape(),
    _Shape(scale=1 / _INSET),
    _Shape(scale=1 / _INSET, outside=255),
    _Shape(degrees=_ROTATION_DEGREES),
    _Shape(degrees=-_ROTATION_DEGREES),
    _Shape(scale=0.9),
    _Shape(scale=0.78),
    *(_Shape(scale=0.86, place=corner) for corner in _CORNERS),
    *(_Shape(scale=0.76, place=edge) for edge in _EDGES),
    # The denser half: between and beyond these.
    *(_Shape(scale=1 / inset, outside=grey) for inset in (0.91, 0.82) for grey in (0, 255)),
    _Shape(scale=1 / _INSET, outside=128),
    *(_Shape(degrees=degrees) for degrees in (-12.0, -4.0, 4.0, 12.0)),
    *(_Shape(scale=0.76, place=corner) for corner in _CORNERS),
    *(_Shape(scale=0.93, place=corner) for corner in _CORNERS),
    _Shape(scale=0.76, place=(0.5, 1.0)),
)
assert 2 * len(_SHAPES) == VIEW_COUNT  # noqa: S101


def view_matrix(view: int, side: int) -> NDArray[np.float64]:
    """Affine 2 x 3 matrix of a view on a square picture of ``side`` pixels: view -> picture.

    Views come in pairs, plain (even) and mirrored (odd): the whole, the picture in a dark and in a
    light frame, two rotations, two cuts at the centre, four at the corners, three at edges.
    """
    shape = _SHAPES[view // 2]
    last = side - 1.0
    cos = shape.scale * np.cos(np.deg2rad(shape.degrees))
    sin = shape.scale * np.sin(np.deg2rad(shape.degrees))
    linear = np.array([[cos, -sin], [sin, cos]])
    if view % 2:
        linear[:, 0] *= -1
    # Where the middle of the view is in the picture.
    middle = [last / 2 + (1 - shape.scale) * last * (place - 0.5) for place in shape.place]
    return np.column_stack([linear, np.array(middle) - linear @ np.full(2, last / 2)])


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
            f"views must be from 1 to {VIEW_COUNT}, not {count} (mining.deduplicate.views)"
        )
    whole = (grey, np.ascontiguousarray(grey[:, ::-1]))
    hashes = [phash64(Image.fromarray(one)) for one in whole[:count]]
    # Four times the hash's side: enough for a smooth warp, little enough to be quick.
    base = square(grey, 128)
    for view in range(2, count):
        picture = cv2.warpAffine(
            base,
            view_matrix(view, base.shape[0]),
            base.shape[::-1],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=_SHAPES[view // 2].outside,
        )
        hashes.append(phash64(Image.fromarray(picture)))
    return np.array(hashes, dtype=np.uint64)
