"""The short way to the pixels of an ordinary JPEG file, bit for bit those of Pillow.

OpenCV and Pillow both carry libjpeg-turbo and decode alike, but OpenCV copies less around it. With
the package simplejpeg, where it is installed, the rows below a crop are not decoded at all. What is
unusual about a file, or goes wrong, is left to Pillow; so is everything where neither is installed.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

_END = b"\xff\xd9"
_FRAMES = range(0xC0, 0xD0)
_NO_FRAMES = (0xC4, 0xC8, 0xCC)
_SCAN = 0xDA


def jpeg_pixels(content: bytes, size: tuple[int, int], bottom: int) -> Pixels | None:
    """uint8 [rows, W, 3] with at least the first ``bottom`` rows, or None: ask Pillow.

    ``content`` is a grey or three-channel JPEG file of ``size`` (width, height); its orientation is
    not looked at.
    """
    # A file that ends early is Pillow's to refuse; other decoders make up the rest.
    if not content.endswith(_END):
        return None
    width, height = size
    simplejpeg, cv2 = _package("simplejpeg"), _package("cv2")
    if simplejpeg is not None:
        rows = height if bottom == height else min(height, _rows_to_decode(content, bottom, height))
        try:
            found = simplejpeg.decode_jpeg(_shortened(content, rows, height), strict=False)
        except ValueError:
            return None
    elif cv2 is not None:
        rows = height
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        found = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    else:
        return None
    return found if found is not None and found.shape == (rows, width, 3) else None


@functools.cache
def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
def _rows_to_decode(content,bottom,height):
    f=_frame(content)
    if f is None: return height
    unit=8*f[1]
    return -(-(bottom+2)//unit)*unit
def _shortened(content,rows,height):
    if rows==height: return content
    at,_=_frame(content)
    c=bytearray(content); c[at+5:at+7]=rows.to_bytes(2,'big'); return bytes(c)
def _frame(content):
    at=2
    while content[at]==0xFF:
        kind=content[at+1]
        if kind in (0xc0,0xc1):
            n=content[at+9]
            return at,max(content[at+11+3*i]&15 for i in range(n))
        if kind in _FRAMES and kind not in _NO_FRAMES or kind==0xDA: return None
        at+=2+int.from_bytes(content[at+2:at+4],'big')
    return None
