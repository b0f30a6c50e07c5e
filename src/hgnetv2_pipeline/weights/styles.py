"""Other projects' names for our tensors: the one place that knows any of them.

Inside, a state is a dict of our names: PaddleClas's attribute names with torch's BN statistics.
Every other way of naming the same tensors is one entry of ``STYLES``; the ways in which training
programs wrap a network (``module.``, ``Student.``, ``backbone.``, ``ema``) are in ``places``.

Sources: PaddleClas ppcls/arch/backbone/legendary_models/pp_hgnet_v2.py and pp_hgnet.py, timm
models/hgnet.py, D-FINE src/nn/backbone/hgnetv2.py, RT-DETR rtdetr_pytorch/src/nn/backbone/
hgnetv2.py, transformers models/hgnet_v2.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from hgnetv2_pipeline.errors import WeightsError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

State: TypeAlias = "dict[str, Tensor]"
Head = Literal["strict", "reinit"]
"""What becomes of a classifier of other classes: it is refused, or made again."""

CLASSIFIER = ("last_conv", "lab", "fc")  # our modules behind the four stages
COUNTER = "num_batches_tracked"
# torch's BN, its AveragedModel, and thop, which counts operations, keep these among the tensors.
_BOOKKEEPING = (COUNTER, "n_averaged", "total_ops", "total_params")
_FIRST = {1: "stem.0.conv.weight", 2: "stem.stem1.conv.weight"}  # a generation's first tensor


@dataclass(frozen=True)
class Style:
    """One project's names for the tensors of one generation: 1 is PPHGNet, 2 is PP-HGNetV2.

    ``renames`` are pairs (ours, theirs) of whole dotted parts; ``^`` ties a pair to the beginning.
    ``marks`` are patterns that all must occur among the keys of a file for it to be of this style.
    """

    name: str
    home: str  # the project that uses these names
    generations: tuple[int, ...]
    renames: tuple[tuple[str, str], ...]
    marks: tuple[str, ...]
    suffixes: tuple[str, ...]  # of the files it is written to, the usual one first
    classifier: bool = True  # a backbone alone has neither last_conv nor lab nor fc behind it
    counters: bool = True  # torch's BN counts its batches; Paddle's does not
    transposed: bool = False  # fc.weight is [in, out]
    zero_pad: bool = False  # the 2x2 max-pool of its stem counts the border as zero
    lab_switch: str = ""  # the setting over there that gives b0 to b3 their learnable affines
    remark: str = ""  # what its user must know besides

    def to_theirs(self, key: str) -> str:
        for ours, theirs in self.renames:
            key = _replaced(key, ours, theirs)
        return key

    def to_ours(self, key: str) -> str:
        for ours, theirs in reversed(self.renames):
            key = _replaced(key, theirs, ours)
        return key


@functools.cache
def _pattern(part: str, tied: bool) -> re.Pattern[str]:
    return re.compile(("^" if tied else r"(?:^|(?<=\.))") + re.escape(part) + r"(?=\.|$)")


def _replaced(key: str, part: str, by: str) -> str:
    """``key`` with the whole dotted part(s) ``part`` replaced."""
    tied = part.startswith("^") or by.startswith("^")
    part, by = part.removeprefix("^"), by.removeprefix("^")
    return _pattern(part, tied).sub(by, key) if part in key else key


_AGGREGATION = (
    ("aggregation_squeeze_conv", "aggregation.0"),
    ("aggregation_excitation_conv", "aggregation.1"),
)
_TIMM_HEAD = (
    ("^last_conv", "head.last_conv.0"),
    ("^lab", "head.last_conv.2"),
    ("^fc", "head.fc"),
)
# In the order in which they are tried: what marks one style may occur in a later one too.
STYLES: tuple[Style, ...] = (
    Style(
        "paddle", "PaddleClas; PaddleDetection below backbone.", (1, 2),
        (("running_mean", "_mean"), ("running_var", "_variance")),
        (r"\._variance$",),
        (".pdparams",), counters=False, transposed=True,
    ),
    Style(
        "timm", "timm hgnet_*", (1,),
        (("^stem", "stem.stem"), ("aggregation_conv", "aggregation.0"),
         ("att", "aggregation.1"), *_TIMM_HEAD),
        (r"^stem\.stem\.0\.",),
        (".safetensors", ".pth"),
    ),
    Style(
        "timm", "timm hgnetv2_*", (2,),
        (*_AGGREGATION, *_TIMM_HEAD),
        (r"\.aggregation\.0\.conv\.", r"^head\."),
        (".safetensors", ".pth"), zero_pad=True,
    ),
    Style(
        "dfine", "D-FINE, DEIM", (2,),
        _AGGREGATION,
        (r"\.aggregation\.0\.conv\.",),
        (".pth",), classifier=False, zero_pad=True,
        lab_switch="use_lab",
    ),
    Style(
        "rtdetr", "RT-DETR in PyTorch", (2,),
        (("^stem.stem2a.conv", "stem.stem2a.conv.1"), ("^stem.stem2b.conv", "stem.stem2b.conv.1")),
        (r"^stem\.stem2a\.conv\.1\.",),
        (".pth",), classifier=False, zero_pad=True, lab_switch="use_lab",
        remark="RT-DETR itself has b4, b5 and b6, which it calls L, X and H",
    ),
    Style(
        "transformers", "transformers HGNetV2Backbone", (2,),
        (("^stem", "embedder"), ("^stages", "encoder.stages"), *_AGGREGATION,
         ("conv", "convolution"), ("bn", "normalization")),
        (r"^embedder\.stem1\.convolution\.",),
        (".safetensors", ".pth"), classifier=False, zero_pad=True,
        lab_switch="use_learnable_affine_block",
    ),
    Style(
        "ours", "this project", (1, 2),
        (),
        (r"^stem\.(stem1|0)\.conv\.",),
        (".safetensors", ".pth"), counters=False,
    ),
)  # fmt: skip
STYLE_NAMES = tuple(dict.fromkeys(style.name for style in STYLES))

FIRST_TENSORS = frozenset(style.to_theirs(_FIRST[n]) for style in STYLES for n in style.generations)
"""The name of a network's first tensor, in every style."""


def style_for(name: str, keys: Iterable[str]) -> Style:
    """The style ``name`` for a network of our names ``keys``. Raises for one it does not know."""
    if name not in STYLE_NAMES:
        raise unknown_name("style", name, STYLE_NAMES, "--style ...")
    keys = set(keys)
    generation = next((number for number, first in _FIRST.items() if first in keys), 2)
    for style in STYLES:
        if style.name == name and generation in style.generations:
            return style
    raise WeightsError(
        f"{name} has no PPHGNet, only PP-HGNetV2; choose one of "
        f"{', '.join(dict.fromkeys(s.name for s in STYLES if generation in s.generations))}"
    )


def recognise(keys: Iterable[str]) -> Style | None:
    """The style of a file's keys, prefixes removed; None where no network of ours is known."""
    keys = list(keys)
    for style in STYLES:
        if all(any(re.search(mark, key) for key in keys) for mark in style.marks):
            return style
    return None


def to_ours(state: Mapping[str, Tensor], style: Style) -> State:
    """``state`` of a file of ``style`` under our names and in our layout, without counters."""
    named = {}
    for key, value in drop_counters(state).items():
        key = style.to_ours(key)
        if style.transposed and key == "fc.weight" and value.ndim == 2:
            value = value.t()
        named[key] = value
    return named


def to_theirs(state: Mapping[str, Tensor], style: Style) -> tuple[State, tuple[str, ...]]:
    """Our ``state`` in ``style``, and our names of what the style has no place for.

    Counters of BN batches, where the style has them, are there at 0.
    """
    import torch

    named: State = {}
    left: list[str] = []
    for key, value in drop_counters(state).items():
        if not style.classifier and key.split(".", 1)[0] in CLASSIFIER:
            left.append(key)
            continue
        if style.transposed and key == "fc.weight":
            value = value.t().contiguous()
        theirs = style.to_theirs(key)
        named[theirs] = value
        if style.counters and theirs.endswith("running_var"):
            counter = theirs.replace("running_var", COUNTER)
            named[counter] = torch.zeros((), dtype=torch.int64)
    return named, tuple(left)


def drop_counters(state: Mapping[str, Tensor]) -> State:
    """``state`` without what is counted beside the weights, on which no answer depends."""
    return {key: value for key, value in state.items() if not is_bookkeeping(key)}


def is_bookkeeping(key: str) -> bool:
    """Whether a tensor of this name counts something and is no weight."""
    return key.rpartition(".")[2] in _BOOKKEEPING
