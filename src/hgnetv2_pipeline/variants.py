"""The sizes of PP-HGNetV2 and PPHGNet, as rows of numbers: the one place that names them; and what
the size of a network's input may be, and how an image becomes it.

Free of torch, so that parameters and commands know them too; ``models.hgnetv2`` and
``models.hgnet`` make networks of them. Source: PaddleClas
ppcls/arch/backbone/legendary_models/pp_hgnet_v2.py and pp_hgnet.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Four = tuple[int, int, int, int]
PoolPadding = Literal["exclude", "zero"]
"""What the border of the stem's 2x2 max-pool counts as: nothing, as in Paddle, or zero."""
Lab = Literal["clip", "relu", "affine"]
"""What the LAB of a variant that has it may become in an exported graph; see ``models.fold``."""


@dataclass(frozen=True)
class Variant:
    """One size: channels of the stem, and per stage the width, the output and the depth."""

    stem: tuple[int, int]
    mid: Four
    out: Four
    depths: Four
    layers: int  # convolutions in a block
    lab: bool  # a learnable affine follows every ReLU


VARIANTS: dict[str, Variant] = {
    "b0": Variant((16, 16), (16, 32, 64, 128), (64, 256, 512, 1024), (1, 1, 2, 1), 3, True),
    "b1": Variant((24, 32), (32, 48, 96, 192), (64, 256, 512, 1024), (1, 1, 2, 1), 3, True),
    "b2": Variant((24, 32), (32, 64, 128, 256), (96, 384, 768, 1536), (1, 1, 3, 1), 4, True),
    "b3": Variant((24, 32), (32, 64, 128, 256), (128, 512, 1024, 2048), (1, 1, 3, 1), 5, True),
    "b4": Variant((32, 48), (48, 96, 192, 384), (128, 512, 1024, 2048), (1, 1, 3, 1), 6, False),
    "b5": Variant((32, 64), (64, 128, 256, 512), (128, 512, 1024, 2048), (1, 2, 5, 2), 6, False),
    "b6": Variant((48, 96), (96, 192, 384, 768), (192, 512, 1024, 2048), (2, 3, 6, 3), 6, False),
}


@dataclass(frozen=True)
class HGNetSize:
    """One size: channels of the stem, and per stage the width, the output and the depth."""

    stem: tuple[int, int, int]
    mid: Four
    out: Four
    depths: Four
    layers: int  # convolutions in a block
    dropout: float = 0.0


HGNET_SIZES: dict[str, HGNetSize] = {
    "hgnet_tiny": HGNetSize(
        (48, 48, 96), (96, 128, 160, 192), (224, 448, 512, 768), (1, 1, 2, 1), 5
    ),
    "hgnet_small": HGNetSize(
        (64, 64, 128), (128, 160, 192, 224), (256, 512, 768, 1024), (1, 1, 2, 1), 6
    ),
    "hgnet_base": HGNetSize(
        (96, 96, 160), (192, 224, 256, 288), (320, 640, 960, 1280), (1, 2, 3, 2), 7, 0.2
    ),
}  # fmt: skip

_FOREIGN = re.compile(r"(?:pp[-_]?)?hgnet(?:[-_]?v2[-_])?(b[0-6]|[-_](?:tiny|small|base))", re.I)


def variant_name(name: str) -> str:
    """Our name of a network that timm or PaddleClas calls ``name``; any other name as it is.

    >>> variant_name("hgnetv2_b4"), variant_name("PPHGNetV2_B4"), variant_name("B4")
    ('b4', 'b4', 'b4')
    >>> variant_name("PPHGNet_small"), variant_name("resnet18")
    ('hgnet_small', 'resnet18')
    """
    found = _FOREIGN.fullmatch(name)
    size = (found[1] if found else name).lower()
    if size in VARIANTS:
        return size
    return f"hgnet_{size[1:]}" if found and size[0] in "-_" else name


def meant_variant(name: str) -> str | None:
    """The variant that a name that is none most likely means, by the number at its end.

    >>> meant_variant("hgnetv2_b9"), meant_variant("hgnetv22-b4"), meant_variant("b9")
    ('b6', 'b4', None)
    """
    found = re.search(r"[-_]b(\d+)$", name.lower())
    return f"b{min(int(found[1]), len(VARIANTS) - 1)}" if found else None


Fit = Literal["crop", "squash", "pad"]
"""How an image becomes the size of the network's input; ``data.preprocess`` says what they do."""
FITS: tuple[Fit, ...] = get_args(Fit)
ImageSize = int | tuple[int, int]
"""Pixels: the side of a square, or (height, width)."""


def height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    """Both edges in pixels, of what a list in JSON says as well.

    >>> height_and_width(224), height_and_width([64, 192])
    ((224, 224), (64, 192))
    """
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width


def read_image_size(given: object, least: int, most: int) -> ImageSize | None:
    """``given``, one side or a pair, with edges from ``least`` to ``most`` pixels; None else.

    A square becomes its side, so that equal sizes are equal values.

    >>> read_image_size([64, 64], 32, 2048), read_image_size((64, 192), 1, 2048)
    (64, (64, 192))
    """
    edges = given if isinstance(given, list | tuple) else (given, given)
    if len(edges) != 2 or not all(type(edge) is int and least <= edge <= most for edge in edges):
        return None
    height, width = edges
    return int(height) if height == width else (int(height), int(width))


def size_in_words(size: int | Sequence[int]) -> str:
    """``224``, or ``64x192`` as height by width."""
    return str(size) if isinstance(size, int) else "x".join(map(str, size))
