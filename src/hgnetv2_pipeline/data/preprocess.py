"""The evaluation view of an image: the one arithmetic used in training, evaluation and engines.

Decode (transparency dropped or composited on a background, EXIF applied), resize so that the short
side is ``resize_short``, cut the centre, divide by 255, subtract the mean, divide by the standard
deviation. Without a background it is bit for bit what PaddleClas computes with its Pillow backend;
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
from hgnetv2_pipeline.durable import sha256_json
from hgnetv2_pipeline.errors import ParameterError, unknown_name

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
"""Pixels of the short side and of the crop: sixteen times those of ImageNet and more."""
_LEAST_STD, _MOST = 1e-4, 1e3  # of pixels scaled to 0..1


@dataclass(frozen=True)
class Preprocess:
    """The evaluation view; travels as JSON in weights and exported models.

    Attributes:
        resize_short: length of the short side after resizing, in pixels.
        crop: side of the square cut from the centre, in pixels, at most ``resize_short``.
        mean, std: per channel (red, green, blue), of pixels scaled to 0..1.
        interpolation: one of ``RESAMPLING``; Pillow's, antialiased, on uint8.
        max_pixels: an image with more pixels than this is refused before it is decoded.
        background: the colour behind transparent pixels (``data.alpha``), composited right after
            decoding; None: transparency is dropped, the colours below it are kept.
    """

    resize_short: int = 232
    crop: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bicubic"
    max_pixels: int = MAX_PIXELS
    background: Colour | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.interpolation, str) or self.interpolation not in RESAMPLING:
            raise unknown_name(
                "interpolation", self.interpolation, RESAMPLING, "preprocess.interpolation"
            )
        # Each limit says what may be, not what may not: NaN is on neither side of a bound.
        if not (_is_whole(self.resize_short) and 1 <= self.resize_short <= MAX_SIDE) or not (
            _is_whole(self.crop) and 1 <= self.crop <= self.resize_short
        ):
            raise ParameterError(
                f"crop {self.crop!r} and resize_short {self.resize_short!r}: whole numbers of "
                "pixels, the crop at least 1 and at most resize_short, and that at most "
                f"{MAX_SIDE} (preprocess.crop, preprocess.resize_short)"
            )
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

    @property
    def decoding(self) -> Decoding:
        """How a file becomes the pixels that are resized and cut."""
        return Decoding(self.max_pixels, self.background)

    def __call__(self, source: Path | str | bytes | Image.Image) -> npt.NDArray[np.float32]:
        """float32 [3, crop, crop] of a file, its bytes or a Pillow image.

        Raises:
            DataError: the image cannot be decoded.
        """
        batch = self.normalize(self.image(source)[None])
        return batch.reshape(batch.shape[1:])

    def image(self, source: Path | str | bytes | Image.Image) -> npt.NDArray[np.uint8]:
        """uint8 [crop, crop, 3]: everything but the normalisation.

        A Pillow image is taken as decoded already: its EXIF orientation is not looked at.
        """
        if isinstance(source, Image.Image):
            decoded = to_rgb(source, self.background)
        else:
            given = source if isinstance(source, bytes) else Path(source)
            decoded = decode_image(given, self.decoding)
        return self._cut(decoded)

    def cut(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8 [crop, crop, 3] of decoded, upright pixels, uint8 [H, W, 3]."""
        return self._cut(Image.fromarray(pixels))

    def _cut(self, decoded: Image.Image) -> npt.NDArray[np.uint8]:
        width, height, left, top = self.geometry(*decoded.size)
        resample = RESAMPLING[self.interpolation]
        if width * height <= self.max_pixels:
            resized = decoded.resize((width, height), resample)
            cut = resized.crop((left, top, left + self.crop, top + self.crop))
        else:
            # A sliver such as 5000x1 would grow to hundreds of megapixels: resize only what the
            # crop needs. Pillow rounds the box to float32, so pixels may differ by one level.
            across, down = decoded.width / width, decoded.height / height
            box = (
                left * across,
                top * down,
                min((left + self.crop) * across, decoded.width),
                min((top + self.crop) * down, decoded.height),
            )
            cut = decoded.resize((self.crop, self.crop), resample, box=box)
        return np.asarray(cut)

    def geometry(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Width and height after resizing, and the left and top of the crop, for an image size."""
        short = min(width, height)
        # Python rounds a half to the even neighbour; every engine of ours must do the same.
        wide = round(width * self.resize_short / short)
        high = round(height * self.resize_short / short)
        return wide, high, (wide - self.crop) // 2, (high - self.crop) // 2

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
        """JSON-able; ``from_dict`` takes it back. Without a background it does not speak of one."""
        values = asdict(self)
        if self.background is None:
            # What was made before there were backgrounds keeps its fingerprint.
            del values["background"]
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
    def at_size(cls, crop: int) -> Preprocess:
        """The published values, both sides scaled to a crop of ``crop`` pixels."""
        return cls(resize_short=round(crop * cls.resize_short / cls.crop), crop=crop)

    def capped(self) -> Preprocess:
        """The same with at most the product's own number of pixels, ``MAX_PIXELS``."""
        return replace(self, max_pixels=min(self.max_pixels, MAX_PIXELS))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of ``to_dict``: the same exactly if all parameters are the same."""
        return sha256_json(self.to_dict())


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
