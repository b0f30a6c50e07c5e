"""An image file whose header has been read and whose pixels are decoded when they are asked for.

A training view cuts a piece out of an image, and draws the piece from the size alone. Knowing the
piece first, an ordinary JPEG file is decoded by ``jpeg``, faster and no further than needed;
every other file by ``decode``. The pixels are the same either way.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from hgnetv2_pipeline.data.decode import (
    DECODING,
    Decoding,
    load_image,
    open_image,
    orientation,
)
from hgnetv2_pipeline.input.jpeg import END, jpeg_pixels, ordinary_size, reduced_pixels

Pixels = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""Left, top, width, height, in pixels of the upright image."""


class LazyImage:
    """The pixels of a file by the rules of ``decode``, as uint8 [H, W, 3] arrays.

    Attributes:
        size: width and height of the upright image.
    """

    size: tuple[int, int]

    def __init__(self, content: bytes, decoding: Decoding = DECODING) -> None:
        """Read the header of a file's ``content``.

        Raises:
            DataError: as ``decode.decode_image``; it may come from the other methods as well.
        """
        self._content: bytes | None = None
        self._image: Image.Image | None = None
        self._decoding = decoding
        size = ordinary_size(content)
        if size is not None and size[0] * size[1] <= decoding.max_pixels:
            self._content, self.size = content, size
            return
        image = open_image(content, decoding)
        self._image = image
        if image.format == "JPEG" and image.mode in ("L", "RGB") and orientation(image) == 1:
            self._content = content
        else:
            self._image = load_image(image, decoding)
        self.size = self._image.size

    @classmethod
    def of(cls, pixels: Pixels) -> LazyImage:
        """A picture of pixels that are at hand already."""
        made = cls.__new__(cls)
        image = Image.fromarray(pixels)
        made._content, made._image = None, image
        made.size = image.size
        return made

    @property
    def plain_jpeg(self) -> bytes | None:
        """The file, if any decoder of JPEG must see Pillow's picture in it (give or take a level).

        None for other formats, four channels, EXIF turns, a missing end marker at the very end,
        and red, green and blue stored as such, which not every decoder knows to tell; nor for a
        file that lacks one of its tables, which not every decoder refuses.
        """
        if self._content is None or not self._content.endswith(END):
            return None
        if self._image is None:
            return self._content
        adobe = self._image.info.get("adobe_transform", 1)
        layers = getattr(self._image, "layer", [])
        tables = getattr(self._image, "quantization", {})
        if any(layer[3] not in tables for layer in layers):
            return None
        return None if adobe != 1 or [one[0] for one in layers] == list(b"RGB") else self._content

    def pixels(self) -> Pixels:
        """uint8 [H, W, 3]: all of it."""
        width, height = self.size
        return self.crop(0, 0, width, height)

    def crop(self, left: int, top: int, width: int, height: int) -> Pixels:
        """uint8 [height, width, 3]: a piece that is inside the picture."""
        if self._content is not None:
            found = jpeg_pixels(self._content, self.size, top + height)
            if found is not None:
                return found[top : top + height, left : left + width]
            image = self._image or open_image(self._content, self._decoding)
            self._content, self._image = None, load_image(image, self._decoding)
        assert self._image is not None, "a picture is a file or an image"  # noqa: S101
        return np.asarray(self._image.crop((left, top, left + width, top + height)))

    def reduced(self, factor: int, bottom: int) -> Pixels | None:
        """uint8 [H / factor, W / factor, 3], above row ``bottom`` of the whole; None: no such file.

        Of a JPEG file that is decoded at a half, a quarter or an eighth (``factor`` 2, 4, 8).
        """
        if self._content is None:
            return None
        return reduced_pixels(self._content, self.size, bottom, factor)
