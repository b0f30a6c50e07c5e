"""Weight files out: our own safetensors with metadata, and the files other programs take."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hgnetv2_pipeline.durable import sha256_file, write_aside
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.weights import styles
from hgnetv2_pipeline.weights.metadata import padding_entry, padding_of
from hgnetv2_pipeline.weights.paddle.writer import write_pdparams

if TYPE_CHECKING:
    from torch import nn

_PADDLE = styles.style_for("paddle", ())
POOL_REMARK = (
    "its stem pads the 2x2 max-pool with zeros where Paddle and this project leave the border out, "
    "so its outputs for b0 to b3 differ slightly; create_model(pool_padding='zero') gives its own"
)
_OTHER_REMARK = (
    "this network pads the 2x2 max-pool of its stem with zeros (pool_padding=zero), and Paddle "
    "leaves the border out, so its outputs differ slightly"
)


@dataclass(frozen=True)
class ExportReport:
    """What was written where; ``str()`` is one line for a person, ``remarks`` what to know."""

    path: Path
    style: str
    n_tensors: int  # counters of BN batches not counted
    sha256: str
    left_out: tuple[str, ...]  # our tensors that the style has no place for
    remarks: tuple[str, ...]

    def __str__(self) -> str:
        line = (
            f"{self.path}: {self.n_tensors} tensors ({self.style} names, sha256 {self.sha256[:8]})"
        )
        if self.left_out:
            line += f"; without {', '.join(self.left_out)}, which it has no place for"
        return line


def export_weights(
    source: Mapping[str, Tensor] | nn.Module,
    path: Path,
    style: str = "paddle",
    *,
    protocol: int = 4,
    metadata: Mapping[str, str] | None = None,
) -> ExportReport:
    """Write our weights as another program takes them, whole or not at all.

    ``style`` is one of ``names.STYLE_NAMES``; the suffix of ``path`` must be one of the style's:
    - ``paddle``: what ``paddle.save`` writes, pickle ``protocol`` 2, 3 or 4 (.pdparams);
    - ``timm``: for ``timm.create_model('hgnetv2_b4')`` or ``hgnet_*``, strict (.safetensors, .pth);
    - ``dfine``, ``rtdetr``: the detector's backbone alone, strict (.pth);
    - ``transformers``: for ``HGNetV2Backbone``, strict (.safetensors, .pth);
    - ``ours``: (.safetensors with ``metadata``, .pth).
    The stems of all four pad their max-pool with zeros, which Paddle and this project do not; in
    b0 to b3 outputs differ slightly, and ``remarks`` of the report say so. Raises
    ``ParameterError`` and, for a network the style does not know, ``WeightsError``.
    """
    path = Path(path)
    state = _state_of(source)
    target = styles.style_for(style, state)
    if path.suffix not in target.suffixes:
        raise ParameterError(
            f"{path.name}: weights of {style} are written to {' or '.join(target.suffixes)}"
        )
    tensors, left = styles.to_theirs(state, target)
    if path.suffix == ".pdparams":
        write_pdparams(path, to_paddle(state), protocol)
    elif path.suffix == ".safetensors":
        said = padding_entry(source) if isinstance(source, torch.nn.Module) else {}
        _write_safetensors(path, tensors, {**said, **(metadata or {})})
    else:
        plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        # Through an open file: given a path, torch would write its random name into the archive.
        with write_aside(path) as aside, aside.open("wb") as file:
            torch.save(plain, file)
    remarks = [target.remark] if target.remark else []
    if any(".lab." in key for key in state):
        if target.lab_switch:
            remarks.append(
                f"this network has learnable affines: set {target.lab_switch}: True there"
            )
        zero = padding_of(source) == "zero" if isinstance(source, torch.nn.Module) else False
        if target.zero_pad and not zero:
            remarks.append(POOL_REMARK)
        elif zero and not target.zero_pad and style != "ours":
            remarks.append(_OTHER_REMARK)
    left_out = tuple(dict.fromkeys(key.partition(".")[0] for key in left))
    return ExportReport(
        path, style, len(styles.drop_counters(tensors)), sha256_file(path), left_out, tuple(remarks)
    )


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
    _write_safetensors(path, styles.drop_counters(_state_of(state)), metadata)


def _write_safetensors(
    path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    wrong = [k for k, v in metadata.items() if not isinstance(k, str) or not isinstance(v, str)]
    if wrong:
        raise TypeError(f"metadata of safetensors are strings; these are not: {wrong}")
    tensors = sorted(state.items())
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
    with write_aside(Path(path)) as aside, aside.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for _, value in tensors:
            flat = value.detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().tobytes())


def to_paddle(state: Mapping[str, Tensor] | nn.Module) -> dict[str, np.ndarray]:
    """Our tensors under Paddle's names and in Paddle's layout (``fc.weight`` is [in, out])."""
    named, _ = styles.to_theirs(_state_of(state), _PADDLE)
    return {key: value.detach().cpu().contiguous().numpy() for key, value in named.items()}


def paddle_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Paddle's name and shape of every tensor of ``model``; a model on 'meta' will do."""
    named, _ = styles.to_theirs(model.state_dict(), _PADDLE)
    return {key: tuple(value.shape) for key, value in named.items()}


def _state_of(state: Mapping[str, Tensor] | nn.Module) -> Mapping[str, Tensor]:
    return state if isinstance(state, Mapping) else state.state_dict()
