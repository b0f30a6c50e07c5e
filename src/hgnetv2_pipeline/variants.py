"""The seven sizes of PP-HGNetV2, as rows of numbers: the one place that names them.

Free of torch, so that parameters and commands know them too; ``models.hgnetv2`` makes networks of
them. Source: PaddleClas ppcls/arch/backbone/legendary_models/pp_hgnet_v2.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Four = tuple[int, int, int, int]
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


def variant_name(given: str) -> str:
    """Our name for a network under the names of timm and PaddleClas; any other text as it is.

    >>> variant_name("hgnetv2_b4"), variant_name("PPHGNetV2_B4"), variant_name("B4")
    ('b4', 'b4', 'b4')
    >>> variant_name("PPHGNet_small"), variant_name("resnet18")
    ('hgnet_small', 'resnet18')
    """
    name = given.lower().replace("-", "_").removeprefix("pp_").removeprefix("pp")
    name = name.removeprefix("hgnetv2_")
    return name if name in VARIANTS or name.startswith("hgnet_") else given
