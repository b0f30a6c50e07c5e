"""The 64-bit perceptual hash: the signs of the low frequencies of a picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SIDE = 32
_BLOCK = 8
# Coefficients of a flat picture are zero up to rounding, and which side of zero they fall on
# depends on the processor. Two decimals (of a range of +-8,000) make the hash the same anywhere.
_DECIMALS = 2


def perceptual_hash(grey: NDArray[np.uint8]) -> int:
    """pHash of a grey picture, uint8 [H, W], as an unsigned 64-bit integer.

    The picture is shrunk to 32 x 32 (area average) and cosine-transformed; of the 8 x 8 lowest
    frequencies, those above their median are ones. The first bit belongs to the mean brightness
    and carries nothing, so 63 bits tell pictures apart.
    """
    import cv2

    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = np.round(cv2.dct(small)[:_BLOCK, :_BLOCK], _DECIMALS)
    bits = (low > np.median(low)).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def hamming(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Number of differing bits, element by element (broadcasting), as uint8."""
    return np.asarray(np.bitwise_count(np.bitwise_xor(first, second)))
