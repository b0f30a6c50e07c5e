"""Training views that a worker leaves unfinished, so that a GPU may do the rest of the work.

The worker reads the file and its header and draws crop, flip and operations from the sample's own
generator, as the CPU paths do: for one (seed, epoch, key) all paths show the same view. The GPU
then decodes, cuts, resizes and augments ('all'), or does what RandAugment drew ('randaugment').
What a decoder on a GPU may read otherwise than Pillow is decoded here and handed over as pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.input.augment import Augment, PublishedView, StagedView
from hgnetv2_pipeline.input.lazy_image import Box, LazyImage
from hgnetv2_pipeline.input.randaugment import Choice

Part = Literal["randaugment", "all"]
# Those that torch resizes with antialiasing.
INTERPOLATIONS = ("bicubic", "bilinear")


@dataclass(frozen=True)
class DeferredView:
    """One image of a batch before it has pixels.

    Attributes:
        data: uint8 [length]: a JPEG file, or pixels [H, W, 3] laid out flat; empty once packed.
        length: number of bytes in ``data``.
        encoded: whether they are a file.
        size: width and height of the image in ``data``.
        box: left, top, width and height of the crop in it.
        place: left, top, width and height of the crop in the view.
        flip: whether left and right are exchanged.
        operations: what RandAugment and the further changes do, in order.
    """

    data: npt.NDArray[np.uint8]
    length: int
    encoded: bool
    size: tuple[int, int]
    box: Box
    place: Box
    flip: bool
    operations: list[Choice]


@dataclass(frozen=True)
class DeviceView:
    """``view`` in two halves: drawn by a worker, made of pixels on ``device`` (see ``device``)."""

    view: PublishedView
    device: torch.device

    def __call__(self, picture: LazyImage, rng: np.random.Generator) -> DeferredView:
        """What is to be done with a picture; DataError as ``LazyImage``."""
        box, flip, operations = self.view.draw(picture.size, rng)
        place = self.view.place(picture.size)
        content = picture.plain_jpeg
        if content is not None:
            data = np.frombuffer(content, np.uint8)
            return DeferredView(data, len(data), True, picture.size, box, place, flip, operations)
        data = np.ascontiguousarray(picture.crop(*box)).reshape(-1)
        size, whole = (box[2], box[3]), (0, 0, box[2], box[3])
        return DeferredView(data, len(data), False, size, whole, place, flip, operations)


@dataclass(frozen=True)
class UnfinishedView:
    """A view that still lacks its operations: uint8 [H, W, 3], and what RandAugment does to it."""

    pixels: npt.NDArray[np.uint8]
    operations: list[Choice]


@dataclass(frozen=True)
class DeviceOperations(StagedView):
    """``view`` cut, resized and flipped by a worker, its operations left to ``device``."""

    view: PublishedView
    device: torch.device

    def __call__(self, picture: LazyImage, rng: np.random.Generator) -> UnfinishedView:
        """The view before its operations; DataError as ``LazyImage``."""
        return self.begin(picture, rng)()

    def begin(self, picture: LazyImage, rng: np.random.Generator) -> Callable[[], UnfinishedView]:
        box, flip, operations = self.view.draw(picture.size, rng)
        return lambda: UnfinishedView(self.view.show(picture, box, flip, []), operations)


def on_device(
    view: Augment, part: Part, device: torch.device | str
) -> DeviceView | DeviceOperations:
    """The training view ``view`` with ``part`` of its work done on ``device``.

    Raises:
        ParameterError: the view is another than 'published', or has nothing for the device to do.
            For 'all': it is resized by a filter that torch does not have, or asked to be fast on
            the CPU as well.
    """
    if not isinstance(view, PublishedView):
        raise ParameterError(
            "input on the device knows augmentation 'published' alone; set input.device to none"
        )
    if part == "randaugment":
        if not view.operates:
            raise ParameterError(
                "augment.randaugment is null, which leaves nothing to do for input.device "
                "'randaugment'; set input.device to none"
            )
        return DeviceOperations(view, torch.device(device))
    if view.interpolation not in INTERPOLATIONS:
        raise ParameterError(
            f"input on the device resizes by 'bicubic' or 'bilinear', not {view.interpolation!r}; "
            "set input.device to randaugment or none"
        )
    if view.fast:
        raise ParameterError(
            "input.fast is about the CPU, input.device 'all' leaves that work to the GPU; set "
            "input.fast to false, or input.device to randaugment"
        )
    return DeviceView(view, torch.device(device))


def pack(drawn: Sequence[DeferredView]) -> tuple[torch.Tensor, list[DeferredView]]:
    """All data in one uint8 tensor, which travels between processes at the cost of one, and the
    rest."""
    together = torch.from_numpy(np.concatenate([one.data for one in drawn]))
    return together, [replace(one, data=np.empty(0, np.uint8)) for one in drawn]
