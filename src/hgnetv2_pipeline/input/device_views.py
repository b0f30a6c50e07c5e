"""Batches decoded, cut, resized and augmented on a GPU (``input.device: all``).

On the device 'cpu', a stand-in for tests, torchvision decodes with libjpeg-turbo instead of nvJPEG.

A file that the decoder refuses, or reads as another size than its header says, is decoded by
``LazyImage``; what ``LazyImage`` refuses is a bad image as anywhere else, and the batch is drawn
again without it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from hgnetv2_pipeline.data.preprocess import vertical_first
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.input.batches import TrainMaker, WorkerBatch
from hgnetv2_pipeline.input.deferred_view import DeferredView, DeviceView
from hgnetv2_pipeline.input.device_operations import augment
from hgnetv2_pipeline.input.lazy_image import Box, LazyImage
from hgnetv2_pipeline.variants import height_and_width

_log = logging.getLogger(__name__)

# Whole images that are on the device at once: 200 MB.
_TOGETHER = 64_000_000
# A pixel's weights are in a GPU's shared memory, which ends at some 90 pixels made one; a panorama
# of 20,000 pixels is resized on the CPU.
_STEEPEST = 48
# What functional.interpolate calls, in the form that writes into a given tensor: a launch an image
# instead of two, and less of Python around it.
_SCALERS: dict[str, Any] = {
    "bicubic": torch.ops.aten._upsample_bicubic2d_aa.out,
    "bilinear": torch.ops.aten._upsample_bilinear2d_aa.out,
}


class DeviceInput:
    """Turns what the workers drew into pixels on the device of ``view``."""

    def __init__(self, view: DeviceView, maker: TrainMaker) -> None:
        self.view, self.maker = view.view, maker
        self.device = view.device

    def __call__(self, made: WorkerBatch) -> WorkerBatch:
        """``made`` with uint8 images [N, 3, height, width], channels_last, on the device.

        A batch with an image that cannot be decoded is made again without it, by the rule of
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
        self, data: Sequence[Tensor], drawn: Sequence[DeferredView]
    ) -> tuple[Tensor | None, dict[int, str]]:
        """The images, or None and the reason for each that cannot be decoded."""
        views = self._empty_views(len(drawn))
        faults: dict[int, str] = {}
        for first, last in _runs(drawn):
            part = range(first, last)
            files = [n for n in part if drawn[n].encoded]
            decoded = dict(zip(files, self._decoded([data[n] for n in files]), strict=True))
            pieces: dict[int, Tensor] = {}
            for n in part:
                try:
                    pieces[n] = self._piece(data[n], drawn[n], decoded.get(n))
                except DataError as error:
                    faults[n] = str(error)
            if not faults:
                self._resize(pieces, {n: drawn[n].place for n in pieces}, views)
        if faults:
            return None, faults
        images = views.round_().clamp_(0, 255).to(torch.uint8)
        flipped = torch.tensor([one.flip for one in drawn], device=self.device)
        images = torch.where(flipped[:, None, None, None], images.flip(3), images)
        if self.view.operates:
            images = augment(images, [one.operations for one in drawn], self.view.fill)
        return images.contiguous(memory_format=torch.channels_last), {}

    def _empty_views(self, count: int) -> Tensor:
        """float32 [count, 3, height, width] on the device; of fit pad in the colour around."""
        size = height_and_width(self.view.image_size)
        views = torch.empty((count, 3, *size), device=self.device)
        if self.view.fit == "pad":
            colour = torch.tensor(self.view.pad_colour, device=self.device, dtype=views.dtype)
            views.copy_(colour[:, None, None])
        return views

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
        except RuntimeError as error:
            # One file spoils the list; which one, only decoding them singly tells.
            if len(files) > 1:
                return [self._decoded([one])[0] for one in files]
            _warn_once(str(error).splitlines()[0])
            return [None]

    def _piece(self, data: Tensor, drawn: DeferredView, decoded: Tensor | None) -> Tensor:
        """uint8 [3, h, w] on the device: the crop; DataError if nothing decodes the file."""
        left, top, width, height = drawn.box
        if decoded is not None and decoded.shape == (3, *reversed(drawn.size)):
            return decoded[:, top : top + height, left : left + width]
        if drawn.encoded:
            found = LazyImage(data.numpy().tobytes()).crop(*drawn.box)
            piece = torch.from_numpy(np.ascontiguousarray(found))
        else:
            piece = data.view(height, width, 3)
        return piece.to(self.device, non_blocking=True).permute(2, 0, 1)

    def _resize(
        self, pieces: Mapping[int, Tensor], places: Mapping[int, Box], views: Tensor
    ) -> None:
        """Each piece into its place of its view, in floats that are not rounded yet.

        One axis at a time, rounded in between as Pillow does; what can be done to all of them at
        once is, for on a GPU a launch costs more than the work on one image.
        """
        scale = _SCALERS[self.view.interpolation]
        shapes = []
        for n, piece in pieces.items():
            height, width = piece.shape[1:]
            _, _, wide, high = places[n]
            upright = vertical_first(width, height, wide, high)
            shapes.append((high, width) if upright else (height, wide))
        flat = torch.empty(sum(3 * high * wide for high, wide in shapes), device=self.device)
        halves = [
            half.view(1, 3, *shape)
            for half, shape in zip(flat.split([3 * h * w for h, w in shapes]), shapes, strict=True)
        ]
        for piece, half, shape in zip(pieces.values(), halves, shapes, strict=True):
            # On a GPU torch resizes floats only.
            whole = piece[None].float()
            steepness = max(whole.shape[2] / shape[0], whole.shape[3] / shape[1])
            if steepness <= _STEEPEST:
                scale(whole, shape, False, out=half)
            else:
                half.copy_(scale(whole.cpu(), shape, False, out=torch.empty(half.shape)))
        flat.round_().clamp_(0, 255)
        for n, half in zip(pieces, halves, strict=True):
            left, top, wide, high = places[n]
            view = views[n : n + 1]
            if (high, wide) == view.shape[2:]:
                scale(half, (high, wide), False, out=view)
            else:
                whole = scale(half, (high, wide), False, out=view.new_empty((1, 3, high, wide)))
                view[:, :, top : top + high, left : left + wide] = whole


@functools.lru_cache(maxsize=4)
def _warn_once(reason: str) -> None:
    _log.warning("the GPU's decoder refused a file, the CPU decodes such ones: %s", reason)


def _runs(drawn: Sequence[DeferredView]) -> list[tuple[int, int]]:
    """First and last + 1 of images that together stay within ``_TOGETHER`` pixels, or of one."""
    starts, total = [0], 0
    for n, one in enumerate(drawn):
        pixels = one.size[0] * one.size[1]
        if total and total + pixels > _TOGETHER:
            starts.append(n)
            total = 0
        total += pixels
    return list(zip(starts, [*starts[1:], len(drawn)], strict=True))
