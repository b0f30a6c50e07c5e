"""Nearest protected pictures by the teacher's features: what no hash sees, such as a hard crop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.mining.scored_pool import ScoredPool

if TYPE_CHECKING:
    import pyarrow as pa

# Cosines of one block: 16 million float32 are 64 MB.
_BLOCK = 1 << 24


class FeatureIndex:
    """Unit features of the protected pictures, float32 [pictures, features], held in memory."""

    def __init__(self, features: NDArray[np.floating]) -> None:
        self._unit = _unit(features)

    def search(
        self, queries: NDArray[np.floating], least: float, most: int = 5
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """The nearest ``most`` pictures with a cosine of ``least`` or more of every query.

        Returns query, picture and cosine of each pair, sorted by (query, -cosine, picture).
        """
        unit = _unit(queries)
        if unit.shape[1] != self._unit.shape[1]:
            raise DataError(
                f"the pool has features of {unit.shape[1]} numbers, the protected images of "
                f"{self._unit.shape[1]}: they come from different teachers; score both again"
            )
        most = min(most, len(self._unit))
        rows = max(_BLOCK // max(len(self._unit), 1), 1)
        parts = []
        for first in range(0, len(unit), rows):
            cosine = unit[first : first + rows] @ self._unit.T
            picture = np.argpartition(-cosine, most - 1, axis=1)[:, :most]
            query = np.repeat(np.arange(len(picture)), most)
            parts.append((query + first, picture.ravel(), cosine[query, picture.ravel()]))
        query, picture, cosine = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((picture, -cosine, query))
        order = order[cosine[order] >= least]
        return query[order], picture[order], cosine[order]


def features_of(scores: Path, keys: pd.Series) -> NDArray[np.float16]:
    """Features [n, D] of the images with these keys, in their order, from the scores of their set.

    Raises:
        DataError: an image has none.
        ParameterError: the scores hold no features.
    """
    names, rows = [], []
    for batch in ScoredPool(scores).chunks(["key", "feat"]):
        names.append(batch["key"].to_pandas())
        rows.append(_matrix(batch["feat"]))
    places = pd.Index(pd.concat(names)).get_indexer(pd.Index(keys))
    missing = keys[places < 0]
    if len(missing):
        raise DataError(
            f"{len(missing)} protected images have no features, the first {missing.iloc[0]}; "
            "score their set again"
        )
    features: NDArray[np.float16] = np.concatenate(rows)[places]
    return features


def feature_pairs(
    pool: ScoredPool, index: FeatureIndex, least: float, most: int
) -> Iterator[pd.DataFrame]:
    """Pairs by features, a chunk of the pool at a time: key, position, cosine."""
    for batch in pool.chunks(["key", "feat"]):
        query, picture, cosine = index.search(_matrix(batch["feat"]), least, most)
        keys = batch["key"].to_numpy(zero_copy_only=False)[query]
        yield pd.DataFrame({"key": keys, "position": picture, "cosine": cosine})


def _matrix(column: pa.FixedSizeListArray) -> NDArray[np.float16]:
    """A column of feature vectors as one matrix."""
    flat: NDArray[np.float16] = column.flatten().to_numpy()
    return flat.reshape(len(column), column.type.list_size)


def _unit(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows of length 1; a row of zeros stays so and resembles nothing."""
    values = np.asarray(features, dtype=np.float32)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(lengths, 1e-12), dtype=np.float32)
