"""Batches decoded, cut, resized and augmented on a GPU (``input.device: true``).

Not run on a GPU so far: the tests run it on the device 'cpu', where torchvision decodes with
libjpeg-turbo instead of nvJPEG, and no speed is known. The GPU's part is written by the
documentation of torchvision 0.29.

A file that the decoder refuses, or reads as another size than its header says, is decoded by
``Picture``; what ``Picture`` refuses is a bad image as anywhere else, and the batch is drawn again
without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.io import ImageReadMode, decode_jpeg

from hgnetv2_pipeline.data.batches import Made, TrainMaker
from hgnetv2_pipeline.data.deviceops import augment
from hgnetv2_pipeline.data.drawn import DeviceView, Drawn
from hgnetv2_pipeline.data.picture import Picture
from hgnetv2_pipeline.data.preprocess import vertical_first
from hgnetv2_pipeline.errors import DataError

# Whole images that lie on the device at once: 200 MB.
_TOGETHER = 64_000_000


class DeviceInput:
    """Turns what the workers drew into pixels on the device of ``view``."""

    def __init__(self, view: DeviceView, maker: TrainMaker) -> None:
        self.view, self.maker = view.view, maker
        self.device = view.device

    def __call__(self, made: Made) -> Made:
        """``made`` with uint8 images [N, 3, image_size, image_size], channels_last, on the device.

        A batch with an image that cannot be decoded is made anew without it, by the rule of
        ``TrainMaker``, so that it is the batch that the CPU would have made.
        """
        while made.batch is not None:
            data = list(made.batch.images.split([one.length for one in made.drawn]))
            images, faults = self.pixels(data, made.drawn)
            if images is not None:
                return replace(made, batch=replace(made.batch, images=images), drawn=[])
            bad = dict(made.bad) | {made.batch.keys[n]: why for n, why in faults.items()}
            made = self.maker.make(made.batch.step, bad)
        return made

    def pixels(
        self, data: Sequence[Tensor], drawn: Sequence[Drawn]
    ) -> tuple[Tensor | None, dict[int, str]]:
        """The images, or None and the reason for each that cannot be decoded."""
        views: list[Tensor] = []
        faults: dict[int, str] = {}
        for first, last in _runs(drawn):
            part = range(first, last)
            files = [n for n in part if drawn[n].encoded]
            decoded = dict(zip(files, self._decoded([data[n] for n in files]), strict=True))
            for n in part:
                try:
                    piece = self._piece(data[n], drawn[n], decoded.get(n))
                except DataError as error:
                    faults[n] = str(error)
                else:
                    views.append(self._resized(piece))
        if faults:
            return None, faults
        images = torch.stack(views).contiguous(memory_format=torch.channels_last)
        flipped = torch.tensor([one.flip for one in drawn], device=self.device)
        images = torch.where(flipped[:, None, None, None], images.flip(3), images)
        if self.view.randaugment is not None:
            operations = [one.operations for one in drawn]
            images = augment(images, operations, self.view.randaugment.fill)
        return images.contiguous(memory_format=torch.channels_last), {}

    def _decoded(self, files: list[Tensor]) -> list[Tensor | None]:
        """uint8 [3, H, W] of each file on the device; None where the decoder gives up."""
        if not files:
            return []
        if self.device.type == "cuda":
            # torchvision's decoder takes memory that the allocator holds for free on this stream
            # and writes to it from a stream of its own, without waiting for the kernels that still
            # read it (github.com/pytorch/vision/pull/9606). After this there are none.
            torch.cuda.current_stream(self.device).synchronize()
        try:
            return list(decode_jpeg(files, mode=ImageReadMode.RGB, device=self.device))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            # One file spoils the list; which one, only decoding them singly tells.
            return [None] if len(files) == 1 else [self._decoded([one])[0] for one in files]

    def _piece(self, data: Tensor, drawn: Drawn, decoded: Tensor | None) -> Tensor:
        """uint8 [3, h, w] on the device: the crop; DataError if nothing decodes the file."""
        left, top, width, height = drawn.box
        if decoded is not None and decoded.shape == (3, *reversed(drawn.size)):
            return decoded[:, top : top + height, left : left + width]
        if drawn.encoded:
            found = Picture(data.numpy().tobytes(), self.maker.max_pixels).crop(*drawn.box)
            piece = torch.from_numpy(np.ascontiguousarray(found))
        else:
            piece = data.view(height, width, 3)
        return piece.to(self.device).permute(2, 0, 1)

    def _resized(self, piece: Tensor) -> Tensor:
        side = self.view.image_size
        height, width = piece.shape[1:]
        upright = vertical_first(width, height, side, side)
        # On a GPU torch resizes floats only. One axis at a time, as Pillow rounds in between.
        view = piece[None].float()
        for size in ((side, width) if upright else (height, side), (side, side)):
            view = functional.interpolate(view, size, mode=self.view.interpolation, antialias=True)
            view = view.round_().clamp_(0, 255)
        return view[0].to(torch.uint8)


def _runs(drawn: Sequence[Drawn]) -> list[tuple[int, int]]:
    """First and last + 1 of images that together stay within ``_TOGETHER`` pixels, or of one."""
    starts, total = [0], 0
    for n, one in enumerate(drawn):
        pixels = one.size[0] * one.size[1]
        if total and total + pixels > _TOGETHER:
            starts.append(n)
            total = 0
        total += pixels
    return list(zip(starts, [*starts[1:], len(drawn)], strict=True))
