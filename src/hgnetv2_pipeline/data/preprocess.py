"""The evaluation view of an image: the one arithmetic used in training, evaluation and engines.

Decode (transparency dropped or composited on a background, EXIF applied), bring to the size of the
network's input, divide by 255, subtract the mean, divide by the standard deviation. How an image
becomes that size is its ``fit``:

* ``crop``: resized so that its short side is ``resize_short``, and the centre is cut. Of an oblong
  input it is the same scaled up: the image is resized until it just covers a rectangle of the
  input's proportions whose short side is ``resize_short``.
* ``squash``: resized to the input in both directions, whatever its proportions. All of it is seen.
* ``pad``: resized with its proportions kept until it just fits into the input, and laid in its
  middle on ``pad_colour``. All of it is seen, undistorted, with fewer pixels.

A square crop without a background is bit for bit what PaddleClas computes with its Pillow backend;
torchvision's Resize and CenterCrop differ by a pixel on many image sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from hgnetv2_pipeline.data.decode import (
    MAX_PIXELS,
    Colour,
    Decoding,
    check_colour,
    decode_image,
    to_rgb,
)
from hgnetv2_pipeline.data.depth import FULL, Depth, check_depth
from hgnetv2_pipeline.durable import sha256_json
from hgnetv2_pipeline.errors import ParameterError, unknown_name
from hgnetv2_pipeline.variants import (
    FITS,
    Fit,
    ImageSize,
    height_and_width,
    read_image_size,
    size_in_words,
)

RESAMPLING: dict[str, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}
_PILLOW = int(PIL.__version__.split(".")[0])
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_SIDE = 4096
"""Pixels of an edge before and after the crop: sixteen times those of ImageNet and more."""
_LEAST_STD, _MOST = 1e-4, 1e3  # of pixels scaled to 0..1


@dataclass(frozen=True)
class Preprocess:
    """The evaluation view; travels as JSON in weights and exported models.

    Attributes:
        resize_short: length of the short side after resizing, in pixels; with another fit than
            crop nothing is cut, and it is the short side of ``crop``.
        crop: what the network takes, in pixels: the side of a square or (height, width), the short
            one at most ``resize_short``.
        mean, std: per channel (red, green, blue), of pixels scaled to 0..1.
        interpolation: one of ``RESAMPLING``; Pillow's, antialiased, on uint8.
        max_pixels: an image with more pixels than this is refused before it is decoded.
        background: the colour behind transparent pixels (``data.alpha``), composited right after
            decoding; None: transparency is dropped, the colours below it are kept.
        fit: one of ``variants.FITS``.
        pad_colour: around the image with fit pad; None: ``mean`` as a colour. Of no other fit.
        depth: which part of 16 bits a channel is seen (``data.depth``), see ``data.depth``.
    """

    resize_short: int = 232
    crop: ImageSize = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bicubic"
    max_pixels: int = MAX_PIXELS
    background: Colour | None = None
    fit: Fit = "crop"
    pad_colour: Colour | None = None
    depth: Depth = FULL

    def __post_init__(self) -> None:
        if not isinstance(self.interpolation, str) or self.interpolation not in RESAMPLING:
            raise unknown_name(
                "interpolation", self.interpolation, RESAMPLING, "preprocess.interpolation"
            )
        if not isinstance(self.fit, str) or self.fit not in FITS:
            raise unknown_name("fit", self.fit, FITS, "preprocess.fit")
        self._check_sizes()
        for name, least in (("mean", -_MOST), ("std", _LEAST_STD)):
            given = getattr(self, name)
            if not _are_numbers(given, 3) or not all(least <= value <= _MOST for value in given):
                raise ParameterError(
                    f"{name} {given!r:.200}: three numbers from {least:g} to {_MOST:g} are needed "
                    f"(preprocess.{name})"
                )
            object.__setattr__(self, name, tuple(float(value) for value in given))
        if not _is_whole(self.max_pixels) or not self.max_pixels >= 1:
            raise ParameterError(
                f"max_pixels {self.max_pixels!r}: a whole number, at least 1 "
                "(preprocess.max_pixels)"
            )
        if self.background is not None:
            colour = check_colour(self.background, "preprocess.background, data.alpha")
            object.__setattr__(self, "background", colour)
        object.__setattr__(self, "pad_colour", self._colour_around())
        object.__setattr__(self, "depth", check_depth(self.depth, "preprocess.depth, data.depth"))

    def _check_sizes(self) -> None:
        # Each limit says what may be, not what may not: NaN is on neither side of a bound.
        crop = read_image_size(self.crop, 1, MAX_SIDE)
        short = 0 if crop is None else min(height_and_width(crop))
        if crop is not None and self.fit != "crop":
            object.__setattr__(self, "resize_short", short)
        fits = _is_whole(self.resize_short) and short <= self.resize_short <= MAX_SIDE
        if crop is None or not fits:
            raise ParameterError(
                f"crop {self.crop!r} and resize_short {self.resize_short!r}: whole numbers of "
                "pixels, the crop one side or [height, width], each at least 1 and at most "
                f"{MAX_SIDE}, resize_short at least the short side of the crop and at most "
                f"{MAX_SIDE} (preprocess.crop, preprocess.resize_short)"
            )
        object.__setattr__(self, "crop", crop)

    def _colour_around(self) -> Colour | None:
        if self.fit != "pad":
            return None
        if self.pad_colour is not None:
            return check_colour(self.pad_colour, "preprocess.pad_colour")
        red, green, blue = (min(max(round(255 * part), 0), 255) for part in self.mean)
        return red, green, blue

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what the network takes, in pixels."""
        return height_and_width(self.crop)

    @property
    def size_in_words(self) -> str:
        """``224``, or ``64x192`` as height by width."""
        return size_in_words(self.crop)

    @property
    def decoding(self) -> Decoding:
        """How a file becomes the pixels that are resized and cut."""
        return Decoding(self.max_pixels, self.background, self.depth)

    def __call__(self, source: Path | str | bytes | Image.Image) -> npt.NDArray[np.float32]:
        """float32 [3, height, width] of a file, its bytes or a Pillow image.

        Raises:
            DataError: the image cannot be decoded.
        """
        batch = self.normalize(self.image(source)[None])
        return batch.reshape(batch.shape[1:])

    def image(self, source: Path | str | bytes | Image.Image) -> npt.NDArray[np.uint8]:
        """uint8 [height, width, 3]: everything but the normalisation.

        A Pillow image is taken as decoded already: its EXIF orientation is not looked at.
        """
        if isinstance(source, Image.Image):
            decoded = to_rgb(source, self.decoding)
        else:
            given = source if isinstance(source, bytes) else Path(source)
            decoded = decode_image(given, self.decoding)
        return self._cut(decoded)

    def cut(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8 [height, width, 3] of decoded, upright pixels, uint8 [H, W, 3]."""
        return self._cut(Image.fromarray(pixels))

    def _cut(self, decoded: Image.Image) -> npt.NDArray[np.uint8]:
        width, height, left, top = self.geometry(*decoded.size)
        tall, broad = self.size
        resample = RESAMPLING[self.interpolation]
        if self.fit != "crop":
            return self.framed(np.asarray(decoded.resize((width, height), resample)), left, top)
        if width * height <= self.max_pixels:
            resized = decoded.resize((width, height), resample)
            cut = resized.crop((left, top, left + broad, top + tall))
        else:
            # A sliver such as 5000x1 would grow to hundreds of megapixels: resize only what the
            # crop needs. Pillow rounds the box to float32, so pixels may differ by one level.
            across, down = decoded.width / width, decoded.height / height
            box = (
                left * across,
                top * down,
                min((left + broad) * across, decoded.width),
                min((top + tall) * down, decoded.height),
            )
            cut = decoded.resize((broad, tall), resample, box=box)
        return np.asarray(cut)

    def framed(self, pixels: npt.NDArray[np.uint8], left: int, top: int) -> npt.NDArray[np.uint8]:
        """uint8 [height, width, 3]: resized ``pixels`` in the place that ``geometry`` gives them.

        As they are where they fill the input; with fit pad ``pad_colour`` is around them.
        """
        if pixels.shape[:2] == self.size:
            return pixels
        frame: npt.NDArray[np.uint8] = np.full((*self.size, 3), self.pad_colour, np.uint8)
        frame[-top : pixels.shape[0] - top, -left : pixels.shape[1] - left] = pixels
        return frame

    def geometry(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Width and height after resizing, and the left and top of the crop, for an image size.

        With fit pad left and top are 0 or below: where the input begins, outside the image.
        """
        tall, broad = self.size
        if self.fit == "squash":
            return broad, tall, 0, 0
        if self.fit == "pad":
            wide, high = _scaled(width, height, self.box, cover=False)
            # One pixel more is right of and below the image where an odd number is left.
            return wide, high, -((broad - wide) // 2), -((tall - high) // 2)
        # Python rounds a half to the even neighbour; every engine of ours must do the same.
        wide, high = _scaled(width, height, self.box, cover=True)
        return wide, high, (wide - broad) // 2, (high - tall) // 2

    @property
    def box(self) -> tuple[int, int]:
        """Height and width that an image is resized to: to cover it with fit crop, to fit into it
        with fit pad. Of the input's proportions, its short side is ``resize_short``.
        """
        short = min(self.size)
        tall, broad = (round(edge * self.resize_short / short) for edge in self.size)
        return tall, broad

    def shown_share(self, width: int, height: int) -> float:
        """The share of an image's area, 0 to 1, that the network gets to see."""
        if self.fit != "crop":
            return 1.0
        wide, high, _, _ = self.geometry(width, height)
        tall, broad = self.size
        return min(broad / wide, 1.0) * min(tall / high, 1.0)

    def normalize(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """float32 [N, 3, H, W] from uint8 [N, H, W, 3]: ``(x / 255 - mean) / std`` in float32."""
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise ParameterError(
                f"normalize got {images.dtype} {images.shape}; it takes uint8 [N, H, W, 3]"
            )
        out = np.empty((images.shape[0], 3, *images.shape[1:3]), np.float32)
        levels = np.arange(256, dtype=np.float32) / np.float32(255)
        for channel in range(3):
            mean, std = np.float32(self.mean[channel]), np.float32(self.std[channel])
            out[:, channel] = ((levels - mean) / std)[images[..., channel]]
        return out

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; ``from_dict`` takes it back.

        What was made before there were backgrounds, other fits than crop and other depths than 16
        bits does not speak of them and keeps its fingerprint.
        """
        values = asdict(self)
        if self.background is None:
            del values["background"]
        if self.fit == "crop":
            del values["fit"]
        if self.pad_colour is None:
            del values["pad_colour"]
        if self.depth == FULL:
            del values["depth"]
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """The reverse of ``to_dict``; absent names take their defaults.

        Raises:
            ParameterError: a name is unknown or a value out of range.
        """
        if not isinstance(values, Mapping):
            raise ParameterError(
                f"preprocess is a {type(values).__name__}, where names and values are needed"
            )
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                raise unknown_name("preprocessing parameter", name, names, "preprocess")
        given: dict[str, Any] = {
            n: tuple(v) if isinstance(v, list) else v for n, v in values.items()
        }
        return cls(**given)

    @classmethod
    def at_size(cls, crop: ImageSize) -> Preprocess:
        """The published values, both sides scaled to a crop of ``crop`` pixels."""
        short = min(height_and_width(crop))
        return cls(
            resize_short=round(short * cls.resize_short / min(height_and_width(cls.crop))),
            crop=crop,
        )

    def reading(self, decoding: Decoding) -> Preprocess:
        """The same for images whose transparency and depth are those of ``decoding``."""
        return replace(self, background=decoding.background, depth=decoding.depth)

    def capped(self) -> Preprocess:
        """The same with at most the product's own number of pixels, ``MAX_PIXELS``."""
        return replace(self, max_pixels=min(self.max_pixels, MAX_PIXELS))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of ``to_dict``: the same exactly if all parameters are the same."""
        return sha256_json(self.to_dict())


def _scaled(width: int, height: int, box: tuple[int, int], *, cover: bool) -> tuple[int, int]:
    """An image's size with its proportions kept so that it just covers, or fits into, a box."""
    tall, broad = box
    if (width * tall >= height * broad) == cover:
        return max(1, round(width * tall / height)), tall
    return broad, max(1, round(height * broad / width))


def _is_whole(value: object) -> bool:
    return type(value) is int  # True is an int, and no number of pixels


def _are_numbers(values: object, count: int) -> bool:
    return (
        isinstance(values, list | tuple)
        and len(values) == count
        and all(isinstance(v, Real) and not isinstance(v, bool) for v in values)
    )


def vertical_first(width: int, height: int, to_width: int, to_height: int) -> bool:
    """Whether the installed Pillow resizes the height first; levels are rounded in between.

    Pillow 13 does so at times, older ones never; the rule was found by comparing the pixels of both
    orders with Pillow's for many sizes.
    """
    lower, narrower = height - to_height, width - to_width
    return _PILLOW >= 13 and lower > 0 and narrower != 0 and lower > 2 * narrower
