"""Weight files in: read without running anything, loaded strictly. ``writing``: out.

Inside, a state is a dict of our names; ``styles`` knows everyone else's. ``read_state`` turns any
supported file into a state, and loading is strict and says what it did.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from hgnetv2_pipeline.durable import sha256_file
from hgnetv2_pipeline.errors import WeightsError, unknown_name
from hgnetv2_pipeline.models.hgnetv2 import EXPAND
from hgnetv2_pipeline.models.input_channels import adapt_first_convolution
from hgnetv2_pipeline.variants import PoolPadding
from hgnetv2_pipeline.weights import styles as names
from hgnetv2_pipeline.weights.metadata import padding_of, padding_said
from hgnetv2_pipeline.weights.paddle.inference import archive_sha256, is_archive, read_inference
from hgnetv2_pipeline.weights.paddle.pdparams import read_paddle_state, read_pdparams
from hgnetv2_pipeline.weights.paddle.writer import write_pdparams
from hgnetv2_pipeline.weights.places import Chosen, Part, Wanted, choose_names
from hgnetv2_pipeline.weights.pytorch.torch_pickle import read_checkpoint
from hgnetv2_pipeline.weights.safetensors_file import header_of, read_header
from hgnetv2_pipeline.weights.styles import CLASSIFIER, Head, State
from hgnetv2_pipeline.weights.tensor_file import kind_of, likeness, open_weight_file
from hgnetv2_pipeline.weights.writing import (
    ExportReport,
    export_weights,
    paddle_shapes,
    save_weights,
    to_paddle,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "ExportReport",
    "LoadReport",
    "WeightFile",
    "export_weights",
    "from_paddle",
    "load_state",
    "load_weights",
    "paddle_shapes",
    "read_file",
    "read_metadata",
    "read_pdparams",
    "read_state",
    "save_weights",
    "to_paddle",
    "write_pdparams",
]

_FC = ("fc.weight", "fc.bias")
_PADDLE = names.style_for("paddle", ())
_OURS = names.style_for("ours", ())
_SAFETENSORS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_log = logging.getLogger(__name__)


def from_paddle(arrays: Mapping[str, np.ndarray]) -> State:
    """Paddle's arrays as tensors (copies) under our names and in our layout."""
    return names.to_ours({key: _tensor(value) for key, value in arrays.items()}, _PADDLE)


# --- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightFile:
    """A file's tensors as they are in it: its own names, types and layout, nothing checked."""

    tensors: State
    metadata: dict[str, str]
    left_aside: tuple[str, ...]  # what a checkpoint holds beside the state dict, and non-tensors
    below: str = ""  # the dotted keys of the dicts above the state dict
    places: tuple[str, ...] = ()  # all such keys below which a network of ours lies
    averaged: bool = False  # whether that is why this one of several was taken


@dataclass(frozen=True)
class ReadState:
    """A file's tensors under our names, and where they came from."""

    tensors: State
    style: str  # the names that the file uses: one of names.STYLE_NAMES, or unknown
    sha256: str
    ignored: tuple[str, ...]  # what the file holds beside the network that was asked for
    metadata: dict[str, str]
    below: str = ""  # the dotted keys of the dicts above its tensors; how they were chosen

    pool_padding: PoolPadding | None = "exclude"
    """The border of its stem's max-pool, where file and names leave no doubt; else None."""

    @property
    def has_classifier(self) -> bool:
        """Whether any tensor behind the four stages is there; a detector's backbone has none."""
        return any(_module(key) in CLASSIFIER for key in self.tensors)

    def head_classes(self, source: object) -> int:
        """How many classes ``fc`` is for; WeightsError where it is no head of a network of ours.

        To be asked before a network of so many classes is made: one number in the file would be
        two thousand in memory.
        """
        shapes = [list(self.tensors[key].shape) if key in self.tensors else None for key in _FC]
        weight, bias = shapes
        if weight is None or weight[1:] != [EXPAND] or bias != weight[:1]:
            raise WeightsError(
                f"{source}: fc.weight is {weight} and fc.bias {bias}, where every network here has "
                f"[classes, {EXPAND}] and [classes]"
            )
        return int(weight[0])


def read_state(path: Path, wanted: Wanted | None = None) -> ReadState:
    """Read the network in any weight file, under whatever names ``names.STYLES`` knows.

    ``module.`` and other prefixes are removed. A checkpoint may hold several networks; ``wanted``
    says which one is read, and ``places`` what is taken where nothing is said: the student of a
    distillation, the backbone of a detector, averaged weights before others. Everything else in
    the file is in ``ignored``. Nothing in it is executed. Raises ``WeightsError``, naming NaN,
    infinite and negative-variance tensors.
    """
    path, wanted = Path(path), wanted or Wanted()
    file = read_file(path, wanted)
    chosen = choose_names(file.tensors, wanted.below(file.below), path)
    raw = {name: file.tensors[key] for key, name in chosen.names.items()}
    counted = tuple(key for key, name in chosen.names.items() if names.is_bookkeeping(name)
                    and not name.endswith(names.COUNTER))  # fmt: skip
    style = names.recognise(raw)
    state = names.to_ours(raw, style or _OURS)
    foreign = foreign_head(state, style)
    state = {
        key: as_float32(key, value, path) for key, value in state.items() if key not in foreign
    }
    return ReadState(
        state,
        style.name if style else "unknown",
        file_sha256(path),
        (*foreign, *counted, *chosen.rest, *file.left_aside),
        file.metadata,
        _place(file, chosen),
        padding_said(file.metadata, path) or usual_padding(state, style),
    )


def _place(file: WeightFile, chosen: Chosen) -> str:
    """Where the tensors were found, in words; nothing where there was no question."""
    place = file.below
    if chosen.averaged:
        place = f"{place} {chosen.prefix}".lstrip()
    return f"{place}, the averaged weights" if file.averaged or chosen.averaged else place


def usual_padding(state: State, style: names.Style | None) -> PoolPadding | None:
    """As the program of that style pads. None: it pads with zeros, and has Paddle's weights too,
    and in a network with learnable affines the two differ."""
    unsure = style is not None and style.zero_pad and any(".lab." in key for key in state)
    return None if unsure else "exclude"


def foreign_head(state: State, style: names.Style | None) -> tuple[str, ...]:
    """Tensors behind the stages that belong to a classifier of another make.

    transformers puts ``fc`` on the last stage itself, where ours has ``last_conv`` between.
    """
    if style is None or style.classifier or "last_conv.weight" in state:
        return ()
    return tuple(key for key in state if _module(key) in CLASSIFIER)


def read_file(path: Path, wanted: Wanted | None = None) -> WeightFile:
    """Read a weight file as it is, for looking into it. Raises ``WeightsError`` if refused."""
    path = Path(path)
    if is_archive(path):
        return WeightFile({k: _tensor(v) for k, v in read_inference(path).items()}, {}, ())
    if not path.is_file():
        raise WeightsError(f"there is no weight file at {path}")
    match kind_of(path):
        case "pickle":
            # A copy: what the reader returns is read-only, and torch tensors are not.
            state = read_paddle_state(path)
            tensors = {key: _tensor(value) for key, value in state.tensors.items()}
            return WeightFile(tensors, {}, state.leftovers)
        case "safetensors":
            return WeightFile(*_read_safetensors(path), ())
        case "torch":
            read = read_checkpoint(path, wanted)
            found = read.found
            return WeightFile(read.tensors, {}, read.left, found.key, found.places, found.averaged)
    with path.open("rb") as file:
        hint = likeness(file.read(512))
    raise WeightsError(
        f"{path} is no weight file{hint}: read are, by their content, PyTorch's checkpoints (.pth, "
        ".pt, .pth.tar, .ckpt, .bin), safetensors, Paddle's .pdparams, and its inference models (a "
        ".tar, or a folder with inference.pdiparams)"
    )


def file_sha256(path: Path) -> str:
    """SHA-256 of a weight file; of an unpacked inference archive, over the files that are read."""
    return archive_sha256(path) if is_archive(path) else sha256_file(path)


def _tensor(array: np.ndarray) -> Tensor:
    if array.dtype == np.uint16:  # Paddle's bfloat16
        return torch.from_numpy(array.astype(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def _read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    with open_weight_file(path) as (file, size):
        header = header_of(file, size, path)
        tensors = {}
        for key, entry in header.tensors.items():
            value = torch.empty(entry.shape, dtype=_SAFETENSORS[entry.dtype])
            file.seek(entry.begin)
            wanted = memoryview(value.reshape(-1).view(torch.uint8).numpy())
            if file.readinto(wanted) != entry.size:  # type: ignore[attr-defined]
                raise WeightsError(f"{path} changed while it was read")
            tensors[key] = value
        return tensors, header.metadata


def as_float32(key: str, value: Tensor, path: Path) -> Tensor:
    """A tensor of a file as float32; ``WeightsError`` for integers, NaN or a negative variance."""
    if not value.is_floating_point():
        raise WeightsError(f"{path}: {key} is {value.dtype}, not a floating-point tensor")
    value = value.to(torch.float32)
    if not torch.isfinite(value).all():
        raise WeightsError(f"{path}: {key} contains NaN or infinite values")
    if key.endswith("running_var") and (value < 0).any():
        raise WeightsError(f"{path}: {key} is a variance with negative values")
    return value


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty if it has none. Reads the header only."""
    return read_header(path).metadata


# --- loading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadReport:
    """What was loaded from where; ``str()`` is one line for a person."""

    path: Path
    sha256: str
    style: str
    n_tensors: int
    head: Literal["loaded", "reinitialised"]
    ignored: tuple[str, ...]
    metadata: dict[str, str]
    fresh: tuple[str, ...] = ()  # modules that start afresh: fc, or the whole classifier
    below: str = ""  # the dotted keys of the dicts above its tensors; how they were chosen
    remark: str = ""  # what its user must know besides
    adapted: str = ""  # what was done to the first convolution for other than three channels

    def __str__(self) -> str:
        line = (
            f"{self.path}: {self.n_tensors} tensors ({self.style} names, sha256 {self.sha256[:8]})"
        )
        if self.below:
            line += f"; from {self.below}"
        if self.fresh:
            verb = "start" if len(self.fresh) > 1 else "starts"
            line += f"; {' and '.join(self.fresh)} {verb} afresh, as head: reinit says"
        if self.adapted:
            line += f"; {self.adapted}"
        if self.ignored:
            line += f"; left aside {len(self.ignored)}: {_first(self.ignored)}"
        return f"{line}; {self.remark}" if self.remark else line


def load_weights(
    model: nn.Module,
    path: Path,
    head: Head = "strict",
    *,
    part: Part = "student",
    key: str | None = None,
    prefix: str | None = None,
) -> LoadReport:
    """Load a weight file into ``model``; every tensor must be there, fit and be used.

    ``head='reinit'`` is the only relaxation: ``fc`` gets fresh weights whatever the file holds,
    because it is for other classes. ``last_conv`` (and, in B0-B3, the ``lab`` behind it) are
    features and come from the file; only where it holds none of the three, as a detector's
    backbone does, all of them start afresh, and the report says so. Any other disagreement raises
    ``WeightsError`` with the first five tensors, and the model is as it was.

    Of a file with several networks ``part`` ('student' or 'teacher' of a distillation), ``key``
    (the dotted keys of the dicts above the tensors) and ``prefix`` (what comes before their names)
    say which one is wanted. How the stem is padded is the model's own: ``create_model``.
    """
    wanted = Wanted(part, key, prefix)
    return load_read(model, read_state(path, wanted), Path(path), head)


def load_read(model: nn.Module, read: ReadState, path: Path, head: Head = "strict") -> LoadReport:
    """Load what ``read_state`` gave for ``path``, as ``load_weights`` does."""
    tensors, adapted = adapt_first_convolution(read.tensors, model)
    loaded = load_state(model, tensors, head, source=str(path))
    unsure = read.pool_padding is None and padding_of(model) == "exclude"
    report = LoadReport(
        path,
        read.sha256,
        read.style,
        loaded,
        "loaded" if head == "strict" else "reinitialised",
        read.ignored,
        read.metadata,
        fresh_modules(model, read.tensors, head),
        read.below,
        f"if they were trained with {read.style}'s code, its stem pads with zeros: "
        "pool_padding=zero" if unsure else "",
        adapted,
    )  # fmt: skip
    _log.info("loaded %s", report)
    return report


def fresh_modules(model: nn.Module, state: Mapping[str, Tensor], head: Head) -> tuple[str, ...]:
    """The modules of ``model`` that do not come from ``state`` under ``head``."""
    if head == "strict":
        return ()
    if any(_module(key) in CLASSIFIER for key in state):
        return ("fc",)
    own = {_module(key) for key in model.state_dict()}
    return tuple(module for module in CLASSIFIER if module in own)


def load_state(model: nn.Module, state: State, head: Head = "strict", *, source: str) -> int:
    """Load a state of our names strictly; the number of tensors. ``source`` is for messages."""
    if head not in get_args(Head):
        raise unknown_name("head", head, get_args(Head), "head: ...")
    fresh = fresh_modules(model, state, head)
    own = names.drop_counters(model.state_dict())
    expected = {k: tuple(v.shape) for k, v in own.items() if _module(k) not in fresh}
    given = {k: v for k, v in state.items() if _module(k) not in fresh}
    missing = [key for key in expected if key not in given]
    unexpected = [key for key in given if key not in expected]
    misshaped = [
        key for key, shape in expected.items() if key in given and tuple(given[key].shape) != shape
    ]
    if missing or unexpected or misshaped:
        problems = [
            *(
                f"{key} is {list(given[key].shape)} where the network has {list(expected[key])}"
                for key in misshaped
            ),
            *(f"{key} is missing" for key in missing),
            *(f"{key} is unknown to the network" for key in unexpected),
        ]
        raise WeightsError(
            f"{source} does not fit {getattr(model, 'variant', '') or type(model).__name__}: "
            f"{_first(problems)}{_hint({*missing, *unexpected, *misshaped}, given)}"
        )
    model.load_state_dict(given, strict=False)  # strictness was checked above, counters aside
    if fresh:
        _start_afresh(model, fresh)
    return len(given)


def _hint(wrong: set[str], given: Mapping[str, Tensor]) -> str:
    """What ``head: reinit`` would do about it, where that is all it takes."""
    if wrong <= set(_FC):
        return "; for a new set of classes say head: reinit"
    if {_module(key) for key in wrong} <= set(CLASSIFIER) and not any(
        _module(key) in CLASSIFIER for key in given
    ):
        return (
            "; it is a backbone without a classifier: to start the whole classifier afresh say "
            "head: reinit"
        )
    return ""


def _start_afresh(model: nn.Module, fresh: tuple[str, ...]) -> None:
    """As in a new network: convolution Kaiming normal by fan-in, LAB doing nothing, fc Xavier."""
    if "last_conv" in fresh:
        torch.nn.init.kaiming_normal_(model.last_conv.weight, mode="fan_in", nonlinearity="relu")
    if "lab" in fresh:
        torch.nn.init.ones_(model.lab.scale)
        torch.nn.init.zeros_(model.lab.bias)
    model.reset_head()


def _module(key: str) -> str:
    return key.partition(".")[0]


def _first(names: list[str] | tuple[str, ...], count: int = 5) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
