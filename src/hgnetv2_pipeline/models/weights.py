"""Weight files in and out: the one place that knows other people's names for our tensors.

Inside, a state is a dict of our names (PaddleClas's attribute names with torch's BN statistics).
``read_state`` turns any supported file into it; loading is strict and says what it did.
"""

from __future__ import annotations

import json
import logging
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from hgnetv2_pipeline.durable import sha256_file, written_aside
from hgnetv2_pipeline.errors import WeightsError, unknown_name
from hgnetv2_pipeline.models.paddle_inference import archive_sha256, is_archive, read_inference
from hgnetv2_pipeline.models.paddle_pickle import read_pdparams
from hgnetv2_pipeline.models.paddle_writer import write_pdparams

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "LoadReport",
    "from_paddle",
    "load_state",
    "load_weights",
    "read_metadata",
    "read_pdparams",
    "read_state",
    "save_weights",
    "to_paddle",
    "to_timm",
    "write_pdparams",
]

Head = Literal["strict", "reinit"]
Part = Literal["student", "teacher"]
State = dict[str, Tensor]
SUFFIXES = (".pdparams", ".safetensors", ".pth", ".pt", ".tar")
_HEAD = ("fc.weight", "fc.bias")
_log = logging.getLogger(__name__)


# --- names ----------------------------------------------------------------------------------------

_PADDLE = (("running_mean", "_mean"), ("running_var", "_variance"))
_TIMM = (
    ("aggregation_squeeze_conv", "aggregation.0"),
    ("aggregation_excitation_conv", "aggregation.1"),
    ("last_conv.", "head.last_conv.0."),
    ("fc.", "head.fc."),
)
_TIMM_V1 = (("aggregation_conv", "aggregation.0"), (".att.", ".aggregation.1."))


def _own(state: Mapping[str, Tensor]) -> State:
    # The count of batches is torch's own; with a fixed momentum nothing depends on it.
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


def to_paddle(state: Mapping[str, Tensor] | nn.Module) -> dict[str, np.ndarray]:
    """Our tensors under Paddle's names and in Paddle's layout (``fc.weight`` is [in, out])."""
    named: dict[str, np.ndarray] = {}
    for key, value in _own(_state_of(state)).items():
        for ours, theirs in _PADDLE:
            key = key.replace(ours, theirs)
        value = value.detach().cpu()
        named[key] = (value.t() if key == "fc.weight" else value).contiguous().numpy()
    return named


def paddle_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Paddle's name and shape of every tensor of ``model``; a model on 'meta' will do."""
    shapes = {}
    for key, value in _own(model.state_dict()).items():
        for ours, theirs in _PADDLE:
            key = key.replace(ours, theirs)
        shapes[key] = tuple(reversed(value.shape)) if key == "fc.weight" else tuple(value.shape)
    return shapes


def from_paddle(arrays: Mapping[str, np.ndarray]) -> State:
    """Paddle's arrays as tensors (copies) under our names and in our layout."""
    return _from_paddle({key: _tensor(value) for key, value in arrays.items()})


def _from_paddle(state: Mapping[str, Tensor]) -> State:
    named = {}
    for key, value in state.items():
        for ours, theirs in _PADDLE:
            key = re.sub(rf"\.{theirs}$", f".{ours}", key)
        named[key] = value.t() if key == "fc.weight" and value.ndim == 2 else value
    return named


def to_timm(state: Mapping[str, Tensor] | nn.Module) -> State:
    """Our tensors under the names of timm's ``hgnetv2_b*`` (or ``hgnet_*``), ready for strict load.

    timm counts its BN batches, so those counters are there, at 0.
    """
    own = _own(_state_of(state))
    first = any(key.startswith("stem.0.") for key in own)
    named = {}
    for key, value in own.items():
        for ours, theirs in _TIMM_V1 if first else ():
            key = key.replace(ours, theirs)
        for ours, theirs in _TIMM:
            key = key.replace(ours, theirs)
        if first and key.startswith("stem."):
            key = f"stem.{key}"
        if key.startswith("lab."):
            key = f"head.last_conv.2.{key.removeprefix('lab.')}"
        named[key] = value
        if key.endswith("running_var"):
            counter = key.replace("running_var", "num_batches_tracked")
            named[counter] = torch.zeros((), dtype=torch.int64)
    return named


def _from_timm(state: Mapping[str, Tensor]) -> State:
    first = any(key.startswith("stem.stem.") for key in state)
    named = {}
    for key, value in state.items():
        key = re.sub(r"^head\.last_conv\.2\.", "lab.", key)
        if first:
            key = re.sub(r"^stem\.stem\.", "stem.", key)
            for ours, theirs in _TIMM_V1:
                key = key.replace(theirs, ours)
        for ours, theirs in _TIMM:
            key = key.replace(theirs, ours)
        named[key] = value
    return named


def _state_of(state: Mapping[str, Tensor] | nn.Module) -> Mapping[str, Tensor]:
    return state if isinstance(state, Mapping) else state.state_dict()


# --- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadState:
    """A file's tensors under our names, and where they came from."""

    tensors: State
    style: str  # whose names the file uses: ours, paddle or timm
    sha256: str
    ignored: tuple[str, ...]  # tensors of the part that was not asked for
    metadata: dict[str, str]


def read_state(path: Path, part: Part = "student") -> ReadState:
    """Read any weight file: .pdparams, .safetensors, .pth; names of Paddle, timm or ours.

    A distillation checkpoint holds two networks; ``part`` says which one is wanted. Nothing in the
    file is executed. Raises ``WeightsError``, naming NaN, infinite and negative-variance tensors.
    """
    path = Path(path)
    raw, metadata = _read_tensors(path)
    raw, ignored = _choose_part(raw, part, path)
    state = _own(raw)
    if any(key.endswith("._mean") for key in state):
        style, state = "paddle", _from_paddle(state)
    elif any(key.startswith("head.") or ".aggregation.0." in key for key in state):
        style, state = "timm", _from_timm(state)
    else:
        style = "ours"
    state = {key: _as_float32(key, value, path) for key, value in state.items()}
    sha256 = archive_sha256(path) if is_archive(path) else sha256_file(path)
    return ReadState(state, style, sha256, ignored, metadata)


def _read_tensors(path: Path) -> tuple[State, dict[str, str]]:
    if is_archive(path):
        return {key: _tensor(value) for key, value in read_inference(path).items()}, {}
    if not path.is_file():
        raise WeightsError(f"there is no weight file at {path}")
    if path.suffix == ".pdparams":
        # A copy: what the reader returns is read-only, and torch tensors are not.
        arrays = read_pdparams(path)
        return {key: _tensor(value) for key, value in arrays.items()}, {}
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path), read_metadata(path)
        except SafetensorError as error:
            raise WeightsError(f"{path} is not a whole safetensors file: {error}") from error
    if path.suffix in (".pth", ".pt"):
        return _read_pth(path), {}
    raise WeightsError(
        f"{path}: weights end in one of {', '.join(SUFFIXES)}, or are a folder with "
        "inference.pdiparams"
    )


def _tensor(array: np.ndarray) -> Tensor:
    if array.dtype == np.uint16:  # Paddle's bfloat16
        return torch.from_numpy(array.astype(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def _read_pth(path: Path) -> State:
    try:
        value: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is damaged or hostile
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path} is refused by torch's safe loader: {reason}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(value, Mapping) and isinstance(value.get(wrapper), Mapping):
            value = value[wrapper]
    if not isinstance(value, Mapping) or not value:
        raise WeightsError(f"{path} holds no state dict")
    strangers = [str(key) for key, item in value.items() if not isinstance(item, Tensor)]
    if strangers:
        raise WeightsError(f"{path} holds more than tensors: {_first(strangers)}")
    if all(str(key).startswith("module.") for key in value):  # DistributedDataParallel's prefix
        return {str(key).removeprefix("module."): item for key, item in value.items()}
    return {str(key): item for key, item in value.items()}


def _choose_part(state: State, part: Part, path: Path) -> tuple[State, tuple[str, ...]]:
    if part not in ("student", "teacher"):
        raise unknown_name("part", part, ("student", "teacher"), "load_weights(part=...)")
    parts = {name: f"{name.capitalize()}." for name in ("student", "teacher")}
    if not any(key.startswith(tuple(parts.values())) for key in state):
        if part == "teacher":
            raise WeightsError(f"{path} holds one network, so it has no teacher beside a student")
        return state, ()
    prefix = parts[part]
    chosen = {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
    if not chosen:
        raise WeightsError(f"{path} is a distillation checkpoint without a {part}")
    return chosen, tuple(key for key in state if not key.startswith(prefix))


def _as_float32(key: str, value: Tensor, path: Path) -> Tensor:
    if not value.is_floating_point():
        raise WeightsError(f"{path}: {key} is {value.dtype}, not a floating-point tensor")
    value = value.to(torch.float32)
    if not torch.isfinite(value).all():
        raise WeightsError(f"{path}: {key} contains NaN or infinite values")
    if key.endswith("running_var") and (value < 0).any():
        raise WeightsError(f"{path}: {key} is a variance with negative values")
    return value


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

    def __str__(self) -> str:
        line = (
            f"{self.path}: {self.n_tensors} tensors ({self.style} names, sha256 {self.sha256[:8]})"
        )
        if self.head == "reinitialised":
            line += "; the head (fc) starts afresh, as head: reinit says"
        if self.ignored:
            line += f"; left aside {len(self.ignored)}: {_first(self.ignored)}"
        return line


def load_weights(
    model: nn.Module, path: Path, head: Head = "strict", *, part: Part = "student"
) -> LoadReport:
    """Load a weight file into ``model``; every tensor must be there, fit and be used.

    ``head='reinit'`` gives ``fc`` fresh weights instead of the file's, the only relaxation; any
    other disagreement raises ``WeightsError`` with the first five tensors.
    """
    read = read_state(path, part)
    loaded = load_state(model, read.tensors, head, source=str(path))
    report = LoadReport(
        Path(path),
        read.sha256,
        read.style,
        loaded,
        "loaded" if head == "strict" else "reinitialised",
        read.ignored,
        read.metadata,
    )
    _log.info("loaded %s", report)
    return report


def load_state(model: nn.Module, state: State, head: Head = "strict", *, source: str) -> int:
    """Load a state of our names strictly; the number of tensors. ``source`` is for messages."""
    if head not in ("strict", "reinit"):
        raise unknown_name("head", head, ("strict", "reinit"), "head: ...")
    own = _own(model.state_dict())
    expected = {k: tuple(v.shape) for k, v in own.items() if head == "strict" or k not in _HEAD}
    given = {k: v for k, v in state.items() if head == "strict" or k not in _HEAD}
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
        only_head = set(missing) | set(unexpected) | set(misshaped) <= set(_HEAD)
        hint = "; for a new set of classes say head: reinit" if only_head else ""
        raise WeightsError(
            f"{source} does not fit {getattr(model, 'variant', '') or type(model).__name__}: "
            f"{_first(problems)}{hint}"
        )
    model.load_state_dict(given, strict=False)  # strictness was checked above, counters aside
    if head == "reinit":
        model.reset_head()
    return len(given)


def _first(names: list[str] | tuple[str, ...], count: int = 5) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


# --- writing --------------------------------------------------------------------------------------

_SAFETENSORS_TYPES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
}


def save_weights(
    path: Path, state: Mapping[str, Tensor] | nn.Module, metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file, whole or not at all; the same state gives the same bytes.

    The library's own writer puts the metadata in random order, which would change the SHA-256 of
    an unchanged result; the format is small enough to be written here. ``metadata`` maps strings
    to strings; structured values go in as JSON.
    """
    wrong = [k for k, v in metadata.items() if not isinstance(k, str) or not isinstance(v, str)]
    if wrong:
        raise TypeError(f"metadata of safetensors are strings; these are not: {wrong}")
    tensors = sorted(_own(_state_of(state)).items())
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for key, value in tensors:
        size = value.numel() * value.element_size()
        header[key] = {
            "dtype": _SAFETENSORS_TYPES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with written_aside(Path(path)) as aside, aside.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for _, value in tensors:
            flat = value.detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().tobytes())


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty if it has none. Reads the header only."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise WeightsError(f"there is no weight file at {path}")
    try:
        with safe_open(path, "np") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a whole safetensors file: {error}") from error
