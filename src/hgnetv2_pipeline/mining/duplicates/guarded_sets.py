"""The protected images (val, test, train): what no mined image may be a copy of."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hgnetv2_pipeline.data import index
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.mining.duplicates.grey_image import GreyImage

# With its key points a picture takes about 0.6 MB.
_HELD_PICTURES = 256


@dataclass(frozen=True)
class GuardedImages:
    """Protected images in one order, each row with its set's name, and the sets' roots."""

    rows: pd.DataFrame
    roots: dict[str, Path]

    def read(self, position: int) -> NDArray[np.uint8]:
        """The image as grey values; DataError if it cannot be read."""
        row = self.rows.iloc[position]
        return read_grey(row, self.roots[row["protected"]])

    def without(self, sets: Collection[str]) -> GuardedImages:
        """The images of the other sets."""
        kept = self.rows[~self.rows["protected"].isin(list(sets))].reset_index(drop=True)
        return GuardedImages(kept, self.roots)


def gather_guarded_images(protected: Mapping[str, tuple[pd.DataFrame, Path]]) -> GuardedImages:
    """The protected sets as one frame in the order given, every image with its bytes' hash."""
    frames = []
    for name, (samples, root) in protected.items():
        known = [*index.IDENTIFYING, index.DECODED_BY]
        rows = samples[[name for name in known if name in samples.columns]].copy()
        unknown = ~rows["bytes_sha256"].map(lambda value: isinstance(value, str) and bool(value))
        rows.loc[unknown, "bytes_sha256"] = [
            hashlib.sha256(index.read_bytes(row, root)).hexdigest()
            for _, row in rows[unknown].iterrows()
        ]
        frames.append(rows.assign(protected=name))
    if not frames:
        raise ParameterError("no protected set given; mining must know val at least")
    roots = {name: root for name, (_, root) in protected.items()}
    return GuardedImages(pd.concat(frames, ignore_index=True), roots)


class Shelf:
    """The protected pictures lately compared, ready made; a bounded number of them."""

    def __init__(self, protected: GuardedImages) -> None:
        self._protected = protected
        self._held: OrderedDict[int, GreyImage] = OrderedDict()

    def get(self, position: int) -> GreyImage:
        """The picture at this position of the protected images."""
        picture = self._held.get(position)
        if picture is None:
            picture = GreyImage(self._protected.read(position))
            self._held[position] = picture
            if len(self._held) > _HELD_PICTURES:
                self._held.popitem(last=False)
        return picture


def read_grey(row: Any, root: Path) -> NDArray[np.uint8]:
    """Grey values [H, W] of the image at a row's path, offset and length."""
    try:
        image = index.read_image(row, root)
    except (DataError, OSError) as error:
        raise DataError(
            f"{row['path']} below {root} could be read before and cannot now: {error}"
        ) from error
    return np.asarray(image.convert("L"))
