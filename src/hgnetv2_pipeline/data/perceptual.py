"""Near-duplicates: a 64-bit perceptual hash and the groups of images whose hashes nearly agree."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image

from hgnetv2_pipeline.errors import ParameterError

_SIDE = 32
_LOW = 8
_BITS = np.uint64(1) << np.arange(64, dtype=np.uint64)


def phash64(image: Image.Image) -> int:
    """The 64-bit pHash of an image, as an unsigned integer.

    Grey, shrunk to 32x32 (antialiased), discrete cosine transform; a bit says whether one of the
    8x8 lowest frequencies is above their median. Re-encoding, resizing and mild changes of tone
    move few bits; an image without contrast gives the same hash as any other such image.
    """
    import cv2

    small = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    waves = cv2.dct(np.asarray(small, np.float32))[:_LOW, :_LOW].ravel()
    # Rounded, so that the last bits of the arithmetic of another CPU do not decide about a tie.
    waves = np.round(waves.astype(np.float64), 2)
    return int(_BITS[waves > np.median(waves)].sum(dtype=np.uint64))


def near_pairs(
    hashes: npt.NDArray[np.uint64], max_distance: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """All pairs (i < j) of hashes that differ in at most ``max_distance`` of 64 bits.

    The bits are cut in bands, a few more than ``max_distance``; two hashes this near agree in all
    but ``max_distance`` of them, so only hashes that agree in some such choice of bands are
    compared. The more bands, the fewer hashes agree by chance, and the more choices there are to
    sort by: as many as cost least. Exact for any distance, quick for small ones.
    """
    if not 0 <= max_distance < 64:
        raise ParameterError(f"max_distance {max_distance}: 0 to 63 bits of 64 may differ")
    agree = min(range(1, 5), key=lambda bands: _cost(len(hashes), max_distance, bands))
    edges = np.linspace(0, 64, max_distance + agree + 1).astype(int).tolist()
    bands = [(1 << high) - (1 << low) for low, high in pairwise(edges)]
    first: list[npt.NDArray[np.int64]] = []
    second: list[npt.NDArray[np.int64]] = []
    for chosen in combinations(bands, agree):
        band = hashes & np.uint64(sum(chosen))
        order = np.argsort(band, kind="stable")
        band, sorted_hashes = band[order], hashes[order]
        alive = np.arange(len(hashes) - 1)
        step = 1
        while len(alive):
            alive = alive[alive + step < len(hashes)]
            alive = alive[band[alive] == band[alive + step]]
            other = sorted_hashes[alive] ^ sorted_hashes[alive + step]
            hit = alive[np.bitwise_count(other) <= max_distance]
            first.append(order[hit])
            second.append(order[hit + step])
            step += 1
    a = np.concatenate(first) if first else np.zeros(0, np.int64)
    b = np.concatenate(second) if second else np.zeros(0, np.int64)
    pairs = np.unique(np.stack([np.minimum(a, b), np.maximum(a, b)]), axis=1)
    return pairs[0].astype(np.int64), pairs[1].astype(np.int64)


def _cost(hashes: int, max_distance: int, agree: int) -> float:
    """Of each hash, where near ones agree in ``agree`` bands: a sort is as 16 comparisons."""
    bits = 64 * agree // (max_distance + agree)
    return math.comb(max_distance + agree, agree) * (16 + hashes / (1 << bits))


def near_groups(hashes: npt.NDArray[np.uint64], max_distance: int) -> npt.NDArray[np.int64]:
    """int64 [N]: the same number for all images linked by chains of near pairs."""
    unique, inverse = np.unique(hashes, return_inverse=True)
    return connected_components(len(unique), *near_pairs(unique, max_distance))[inverse]


def connected_components(
    n: int, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """int64 [n]: the connected components of these edges, named by their lowest members."""
    names = np.arange(n, dtype=np.int64)
    while len(first):
        lowest = np.minimum(names[first], names[second])
        before = names.copy()
        np.minimum.at(names, names[first], lowest)
        np.minimum.at(names, names[second], lowest)
        names = names[names]
        if np.array_equal(before, names):
            break
    return names
