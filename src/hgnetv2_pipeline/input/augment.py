"""The training view of an image: from a picture and its own generator to uint8 pixels.

``make_augment`` reads a configuration and gives a callable (LazyImage, generator) -> uint8
[height, width, 3]. The same generator state gives the same bytes, whatever the process. The
callables are plain data and travel to worker processes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hgnetv2_pipeline.data.decode import Colour, check_colour
from hgnetv2_pipeline.data.preprocess import MAX_SIDE, Preprocess
from hgnetv2_pipeline.errors import ParameterError, unknown_name
from hgnetv2_pipeline.input.further_changes import OFF, FurtherChanges, further_changes
from hgnetv2_pipeline.input.lazy_image import Box, LazyImage
from hgnetv2_pipeline.input.randaugment import Choice, Fill, RandAugment, parse_randaugment
from hgnetv2_pipeline.variants import (
    Fit,
    ImageSize,
    height_and_width,
    read_image_size,
    size_in_words,
)

View = npt.NDArray[np.uint8]
Augment = Callable[[LazyImage, np.random.Generator], View]

# Their files are held in memory meanwhile.
TOGETHER = 16

PUBLISHED_RANDAUGMENT = "rand-m7-mstd0.5-inc1"
PUBLISHED_BOX = "paddle"
IMAGENET_FILL: Fill = (124, 116, 104)


class StagedView(ABC):
    """A view whose draws come apart from its pixels."""

    @abstractmethod
    def begin(self, picture: LazyImage, rng: np.random.Generator) -> Callable[[], Any]:
        """What is left to do for the view of ``picture`` once everything is drawn."""


@dataclass(frozen=True)
class PublishedView(StagedView):
    """The published recipe: random resized crop, mirror, RandAugment.

    Attributes:
        image_size: pixels of the result: the side of a square or (height, width).
        box: how the crop is drawn, a name of ``BOXES``.
        scale: share of the image's area that the crop takes, lowest and highest.
        ratio: width over height of the crop, lowest and highest; relative to what the evaluation
            view shows undistorted: the shape of the result with fit crop, of the whole image else.
        mirror: chance of a left-right flip.
        randaugment: the operations that follow, or None.
        interpolation: as in ``Preprocess``.
        fast: the same crops, flips and operations through ``fast`` instead of Pillow.
        further: what happens besides; None: nothing (and descriptions do not speak of it).
        fit: of the evaluation view. With squash a crop is distorted as the whole image is there;
            with pad it takes the place that the whole image has there, on ``pad_colour``.
        pad_colour: as in ``Preprocess``.
    """

    image_size: ImageSize
    box: str
    scale: tuple[float, float]
    ratio: tuple[float, float]
    mirror: float
    randaugment: RandAugment | None
    interpolation: str
    fast: bool
    further: FurtherChanges | None = None
    fit: Fit = "crop"
    pad_colour: Colour | None = None

    @property
    def operates(self) -> bool:
        """Whether anything happens to the pixels once they are cut, resized and mirrored."""
        return self.randaugment is not None or self.further is not None

    @property
    def fill(self) -> Fill:
        """Colour of what the operations uncover."""
        source = self.randaugment or self.further
        return IMAGENET_FILL if source is None else source.fill

    def __call__(self, picture: LazyImage, rng: np.random.Generator) -> View:
        return self.show(picture, *self.draw(picture.size, rng))

    def begin(self, picture: LazyImage, rng: np.random.Generator) -> Callable[[], View]:
        return partial(self.show, picture, *self.draw(picture.size, rng))

    def show(self, picture: LazyImage, box: Box, flip: bool, operations: list[Choice]) -> View:
        """The view that was drawn for ``picture``."""
        # Loaded where pixels are made: descriptions and plans need neither torch nor OpenCV.
        from hgnetv2_pipeline.input.array_operations import EXACT_OPERATIONS, mirror
        from hgnetv2_pipeline.input.fast_augment import OPERATIONS, resize_crop
        from hgnetv2_pipeline.input.pillow_resize import resize_exactly

        left, top, width, height = self.place(picture.size)
        if self.fast:
            view = resize_crop(picture, box, width, height, self.interpolation)
        else:
            # Crop first, then resize: taps of the filter that reached beyond the crop would give
            # other pixels than PaddleClas, torchvision and timm give.
            view = resize_exactly(picture.crop(*box), width, height, self.interpolation)
        if self.fit == "pad":
            view = self._frame.framed(view, -left, -top)
        if flip:
            view = mirror(view)
        known = OPERATIONS if self.fast else EXACT_OPERATIONS
        for name, level, sign in operations:
            view = known[name](view, level, sign, self.fill)
        return view

    def draw(
        self, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[Box, bool, list[Choice]]:
        """Crop, flip and operations for an image of ``size`` (width, height)."""
        height, width = size[::-1] if self.fit != "crop" else height_and_width(self.image_size)
        low, high = self.ratio
        ratio = low * (width / height), high * (width / height)
        box = BOXES[self.box](*size, self.scale, ratio, rng)
        flip = rng.random() < self.mirror
        operations = [] if self.randaugment is None else self.randaugment.choices(rng)
        if self.further is not None:
            flip, operations = self.further.draw(flip, operations, rng)
        return box, flip, operations

    def place(self, size: tuple[int, int]) -> Box:
        """Left, top, width and height that the crop of an image of ``size`` has in the view."""
        if self.fit != "pad":
            height, width = height_and_width(self.image_size)
            return 0, 0, width, height
        wide, high, left, top = self._frame.geometry(*size)
        return -left, -top, wide, high

    @cached_property
    def _frame(self) -> Preprocess:
        return Preprocess(crop=self.image_size, fit="pad", pad_colour=self.pad_colour)


def begin(
    augment: Callable[[LazyImage, np.random.Generator], Any],
    picture: LazyImage,
    rng: np.random.Generator,
) -> Callable[[], Any]:
    """What is left of ``augment(picture, rng)`` once everything is drawn that can be.

    Decoding empties the processor's caches. To read headers and draw for ``TOGETHER`` pictures
    first, and to make their pixels then, takes a thirtieth less than picture by picture.
    """
    if isinstance(augment, StagedView):
        return augment.begin(picture, rng)
    return partial(augment, picture, rng)


def torchvision_box(
    width: int,
    height: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> Box:
    """Left, top, width, height of a random crop, drawn as torchvision's RandomResizedCrop does.

    Ten attempts at an area and a (log-uniform) ratio that fit; then the largest centre crop whose
    ratio is within bounds.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = width * height * (scale[0] + (scale[1] - scale[0]) * rng.random())
        aspect = math.exp(low + (high - low) * rng.random())
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.random() * (height - h + 1))
            left = int(rng.random() * (width - w + 1))
            return left, top, w, h
    w, h = width, height
    if width / height < ratio[0]:
        h = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        w = max(1, round(height * ratio[1]))
    return (width - w) // 2, (height - h) // 2, w, h


def paddle_box(
    width: int,
    height: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> Box:
    """Left, top, width, height of a random crop, drawn as PaddleClas's RandCropImage does.

    The ratio is uniform (not log-uniform) and drawn first; the area is then drawn from what fits,
    so that one attempt is enough. PaddleClas fails on a sliver whose crop is less than a pixel
    wide; here it is one pixel.
    """
    across = math.sqrt(ratio[0] + (ratio[1] - ratio[0]) * rng.random())
    down = 1 / across
    fits = min((width / height) / across**2, (height / width) / down**2)
    low, high = min(scale[0], fits), min(scale[1], fits)
    side = math.sqrt(width * height * (low + (high - low) * rng.random()))
    # Rounding may carry a crop that just fits one pixel beyond the image.
    w = min(max(1, int(side * across)), width)
    h = min(max(1, int(side * down)), height)
    left = int(rng.random() * (width - w + 1))
    top = int(rng.random() * (height - h + 1))
    return left, top, w, h


BOXES = {"torchvision": torchvision_box, "paddle": paddle_box}


@dataclass(frozen=True)
class AffineView:
    """A small random turn, zoom and shift about the centre of the evaluation view.

    Attributes:
        degrees: turn, uniform in +-degrees.
        scale: zoom, uniform in 1 +- scale.
        shift: shift in each direction, uniform in +- shift x that edge.
        mirror: chance of a left-right flip.
        fill: colour of what the view uncovers.
        base: the evaluation view that it starts from.
    """

    degrees: float
    scale: float
    shift: float
    mirror: float
    fill: Fill
    base: Preprocess

    def __call__(self, picture: LazyImage, rng: np.random.Generator) -> View:
        height, width = self.base.size
        pixels = picture.pixels()
        if picture.size != (width, height):
            pixels = self.base.cut(pixels)
        image = Image.fromarray(pixels)
        turn, zoom, right, down, flip = rng.random(5)
        angle = math.radians(self.degrees * (2 * turn - 1))
        factor = 1 + self.scale * (2 * zoom - 1)
        # Pillow maps each pixel of the result to a place in the source: the inverse transform.
        cosine, sine = math.cos(angle) / factor, math.sin(angle) / factor
        across = -1.0 if flip < self.mirror else 1.0
        x = width / 2 + self.shift * width * (2 * right - 1)
        y = height / 2 + self.shift * height * (2 * down - 1)
        matrix = (
            across * cosine,
            across * sine,
            width / 2 - across * (cosine * x + sine * y),
            -sine,
            cosine,
            height / 2 + sine * x - cosine * y,
        )
        view = image.transform(
            (width, height),
            Image.Transform.AFFINE,
            matrix,
            resample=Image.Resampling.BILINEAR,
            fillcolor=self.fill,
        )
        return np.asarray(view)


@dataclass(frozen=True)
class EvaluationView:
    """No augmentation: the evaluation view, the generator is not touched."""

    base: Preprocess

    def __call__(self, picture: LazyImage, rng: np.random.Generator) -> View:
        return self.base.cut(picture.pixels())


_PLACE = {
    "image_size": None, "resize_short": None, "interpolation": "bicubic", "fast": False,
    "fit": "crop", "pad_colour": None,
}  # fmt: skip
_DEFAULTS: dict[str, dict[str, Any]] = {
    "published": {
        "box": PUBLISHED_BOX,
        "scale": (0.08, 1.0),
        "ratio": (3 / 4, 4 / 3),
        "mirror": 0.5,
        "randaugment": PUBLISHED_RANDAUGMENT,
        "fill": IMAGENET_FILL,
        **OFF,
    },
    "affine": {"degrees": 15.0, "scale": 0.15, "shift": 0.075, "mirror": 0.0, "fill": (0, 0, 0)},
    "none": {},
}


def make_augment(config: Mapping[str, Any]) -> Augment:
    """The training view that ``config`` asks for.

    ``config`` holds ``name`` (published, affine or none), ``image_size`` (pixels of the result: the
    side of a square or [height, width]) and, optionally, ``resize_short`` (affine and none: short
    side before the centre crop, default that of ``image_size``), ``interpolation``, ``fast``
    (default False; published only), ``fit`` and ``pad_colour`` (as in ``Preprocess``; default crop)
    and the parameters of the named view:

    * published: ``box`` (how the crop is drawn: paddle, as PaddleClas's recipes do, or
      torchvision), ``scale``, ``ratio``, ``mirror``, ``fill``, ``randaugment`` (as timm writes it,
      or None) and, off by default, ``vertical_flip``, ``quarter_turns``, ``rotation``, ``jitter``,
      ``grey`` (see ``FurtherChanges``)
    * affine: ``degrees``, ``scale``, ``shift``, ``mirror``, ``fill``

    Raises:
        ParameterError: a name is unknown or a value out of range.
    """
    name = config.get("name")
    if name not in _DEFAULTS:
        raise unknown_name("augmentation", name, _DEFAULTS, "augment.name")
    allowed = {**_PLACE, **_DEFAULTS[name]}
    for given in config:
        if given != "name" and given not in allowed:
            raise unknown_name(f"parameter of augmentation {name}", given, allowed, "augment")
    values = {**allowed, **{key: value for key, value in config.items() if value is not None}}
    if config.get("randaugment", "") is None:
        values["randaugment"] = None
    base = _base(values)
    if values["fast"]:
        _check_fast(name, base.interpolation)
    if name == "none":
        return EvaluationView(base)
    mirror = _between("mirror", values["mirror"], 0, 1)
    fill = _fill(values["fill"])
    if name == "affine":
        return AffineView(
            degrees=_between("degrees", values["degrees"], 0, 180),
            scale=_between("scale", values["scale"], 0, 0.9),
            shift=_between("shift", values["shift"], 0, 1),
            mirror=mirror,
            fill=fill,
            base=base,
        )
    text = values["randaugment"]
    if values["box"] not in BOXES:
        raise unknown_name("way to draw a crop", values["box"], BOXES, "augment.box")
    further = further_changes(values, fill)
    if further is not None and further.quarter_turns and not isinstance(base.crop, int):
        raise ParameterError(
            f"a quarter turn gives views of {size_in_words(base.crop)} pixels another shape; "
            "set augment.quarter_turns to false, or image_size to one side"
        )
    return PublishedView(
        image_size=base.crop,
        box=values["box"],
        scale=_range("scale", values["scale"], 1.0),
        ratio=_range("ratio", values["ratio"], math.inf),
        mirror=mirror,
        randaugment=None if text is None else parse_randaugment(text, fill),
        interpolation=values["interpolation"],
        fast=bool(values["fast"]),
        further=further,
        fit=base.fit,
        pad_colour=base.pad_colour,
    )


def _base(values: Mapping[str, Any]) -> Preprocess:
    """The evaluation view that the training view belongs to."""
    colour, size = values["pad_colour"], read_image_size(values["image_size"], 1, MAX_SIDE)
    if size is None:
        raise ParameterError(
            f"image_size {values['image_size']!r}: a whole number from 1 to {MAX_SIDE}, or "
            "[height, width] (image_size)"
        )
    return Preprocess(
        resize_short=values["resize_short"] or min(height_and_width(size)),
        crop=size,
        interpolation=values["interpolation"],
        fit=values["fit"],
        pad_colour=None if colour is None else check_colour(colour, "pad_colour"),
    )


def _check_fast(name: str, interpolation: str) -> None:
    if name != "published" or interpolation not in ("bicubic", "bilinear"):
        raise ParameterError(
            f"the fast input path knows augmentation 'published' with interpolation 'bicubic' or "
            f"'bilinear', not {name!r} with {interpolation!r}; set input.fast to false"
        )
    if find_spec("cv2") is None:
        raise ParameterError(
            "the fast input path needs OpenCV; install opencv-python-headless, or set input.fast "
            "to false"
        )


def _between(name: str, value: Any, low: float, high: float) -> float:
    if not isinstance(value, int | float) or not low <= value <= high:
        raise ParameterError(f"{name} {value!r}: a number from {low} to {high} (augment.{name})")
    return float(value)


def _range(name: str, value: Any, top: float) -> tuple[float, float]:
    pair = tuple(value) if isinstance(value, list | tuple) else ()
    if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= top:
        raise ParameterError(
            f"{name} {value!r}: two numbers, lowest and highest, above 0"
            f"{f' and at most {top:g}' if math.isfinite(top) else ''} (augment.{name})"
        )
    return float(pair[0]), float(pair[1])


def _fill(value: Any) -> Fill:
    colour = tuple(value) if isinstance(value, list | tuple) else ()
    if len(colour) != 3 or not all(isinstance(c, int) and 0 <= c <= 255 for c in colour):
        raise ParameterError(f"fill {value!r}: three whole numbers from 0 to 255 (augment.fill)")
    return colour[0], colour[1], colour[2]
