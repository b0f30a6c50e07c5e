"""Other projects' names for our tensors: the one place that knows any of them.

Inside, a state is a dict of our names: PaddleClas's attribute names with torch's BN statistics.
Every other way of naming the same tensors is one entry of ``STYLES``; the ways in which training
programs wrap a network (``module.``, ``Student.``, ``backbone.``, ``ema``) are the tables below it.

Sources: PaddleClas ppcls/arch/backbone/legendary_models/pp_hgnet_v2.py and pp_hgnet.py, timm
models/hgnet.py, D-FINE src/nn/backbone/hgnetv2.py, RT-DETR rtdetr_pytorch/src/nn/backbone/
hgnetv2.py, transformers models/hgnet_v2.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from hgnetv2_pipeline.errors import WeightsError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

State: TypeAlias = "dict[str, Tensor]"
Part = Literal["student", "teacher"]
Head = Literal["strict", "reinit"]
"""What becomes of a classifier of other classes: it is refused, or made again."""

CLASSIFIER = ("last_conv", "lab", "fc")  # our modules behind the four stages
_COUNTER = "num_batches_tracked"
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

# Where a checkpoint of a training program keeps the network; the averaged weights come first,
# as they do in the programs themselves. What else it holds is left aside.
LAYOUTS: tuple[tuple[str, ...], ...] = (
    ("ema", "module"),  # D-FINE, RT-DETR
    ("state_dict_ema",),  # timm
    ("state_dict",),  # timm, mmengine
    ("model",),  # D-FINE, RT-DETR, PyTorch's examples
)
_MAX_LAYOUTS = 4  # one inside another; a hostile file may hold itself
_ROLE = re.compile(
    r"(?:^|[._])(student|teacher)\.", re.IGNORECASE
)  # PaddleClas's DistillationModel
_INNER = re.compile(r"(?:^|[._])backbone\.")


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
            counter = theirs.replace("running_var", _COUNTER)
            named[counter] = torch.zeros((), dtype=torch.int64)
    return named, tuple(left)


def drop_counters(state: Mapping[str, Tensor]) -> State:
    # The count of batches is torch's own; with a fixed momentum nothing depends on it.
    return {key: value for key, value in state.items() if not key.endswith(_COUNTER)}


# --- networks inside other things -----------------------------------------------------------------


def unwrap_checkpoint(checkpoint: Any) -> tuple[Any, tuple[str, ...]]:
    """The state dict inside a training program's checkpoint, and the names of the rest."""
    rest: list[str] = []
    above = ""
    for _ in range(_MAX_LAYOUTS):
        layout = next((path for path in LAYOUTS if _below(checkpoint, path)), ())
        for part in layout:
            rest.extend(f"{above}{key}" for key in checkpoint if key != part)
            checkpoint = checkpoint[part]
            above += f"{part}."
    return checkpoint, tuple(rest)


def _below(checkpoint: Any, path: tuple[str, ...]) -> bool:
    """Whether ``path`` leads to a dict that holds something."""
    for part in path:
        checkpoint = checkpoint.get(part) if isinstance(checkpoint, Mapping) else None
    return isinstance(checkpoint, Mapping) and bool(checkpoint)


def network_prefixes(keys: Iterable[str]) -> list[str]:
    """What comes before the names of each network of ours among ``keys``: '', 'backbone.', ..."""
    firsts = {style.to_theirs(_FIRST[n]) for style in STYLES for n in style.generations}
    found: dict[str, None] = {}
    for key in keys:
        before = [key.removesuffix(f) for f in firsts if key == f or key.endswith(f".{f}")]
        if before:
            found[min(before, key=len)] = None
    return list(found)


def chosen_part(
    keys: Iterable[str], part: Part, source: object
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Of a file's keys those of the network asked for (key -> name without prefix), and the rest.

    A file of one network is taken whole: ``module.`` and the like are removed, and a key outside
    stays, to be refused as unknown. Of a distillation checkpoint ``part`` says which network is
    wanted; of a detector the backbone is. What does not belong to it is the rest. Raises
    ``WeightsError`` where the part is not there or the choice is not clear.
    """
    if part not in get_args(Part):
        raise unknown_name("part", part, get_args(Part), "load_weights(part=...)")
    keys = list(keys)
    roles = {role for key in keys if (role := _role(key))}
    if part == "teacher" and not roles:
        raise WeightsError(f"{source} holds one network, so it has no teacher beside a student")
    prefixes = network_prefixes(keys)
    if roles:
        prefixes = _of_role(prefixes, part, roles, source)
    prefix = _only(prefixes, source)
    inside = {
        key: key.removeprefix(prefix)
        for key in keys
        if key.startswith(prefix) and (_role(key) or part) == part
    }
    outside = tuple(key for key in keys if key not in inside)
    if outside and not (roles or _INNER.search(prefix)):
        return inside | {key: key for key in outside}, ()
    return inside, outside


def _of_role(prefixes: list[str], part: Part, roles: set[str], source: object) -> list[str]:
    """The prefixes of networks that are ``part`` in a distillation checkpoint."""
    # Beside a teacher, a network without such a name is the student.
    fitting = [prefix for prefix in prefixes if (_role(prefix) or "student") == part]
    if not fitting and part not in roles:
        raise WeightsError(f"{source} is a distillation checkpoint without a {part}")
    if not fitting:
        raise WeightsError(f"the {part} in {source} is no network of ours")
    return fitting


def _only(prefixes: list[str], source: object) -> str:
    """The one prefix, that of the backbone where a detector has others; '' where there is none."""
    if len(prefixes) > 1:
        prefixes = [prefix for prefix in prefixes if _INNER.search(prefix)] or prefixes
    if len(prefixes) > 1:
        named = ", ".join(repr(prefix) for prefix in prefixes[:5])
        raise WeightsError(
            f"{source} holds {len(prefixes)} networks, below {named}; save the wanted one by itself"
        )
    return prefixes[0] if prefixes else ""


def _role(key: str) -> str:
    found = _ROLE.search(key)
    return found.group(1).lower() if found else ""
