"""What a weight file holds, found without running anything in it and without refusing its values.

``inspect_file`` answers what loading would ask: which names, which network, how many classes, and
whether it would load.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.foreign import foreign_file
from hgnetv2_pipeline.weights import styles
from hgnetv2_pipeline.weights.build import identify
from hgnetv2_pipeline.weights.load import (
    WeightFile,
    file_sha256,
    foreign_head,
    read_file,
    usual_padding,
)
from hgnetv2_pipeline.weights.metadata import POOL_PADDING
from hgnetv2_pipeline.weights.onnx_file import examine_onnx
from hgnetv2_pipeline.weights.paddle.inference import is_archive, read_variables
from hgnetv2_pipeline.weights.paddle.pdparams import NAMES_KEY, read_object
from hgnetv2_pipeline.weights.pickle_machine import brief_value
from hgnetv2_pipeline.weights.places import Wanted, choose_names, network_prefixes
from hgnetv2_pipeline.weights.tensor_file import kind_of

if TYPE_CHECKING:
    import onnx

_FORMATS = {"safetensors": "safetensors", "torch": "PyTorch checkpoint", "pickle": "pickle"}
_NAMED = {  # formats that their first bytes do not tell
    ".pdparams": "Paddle state dict",
    ".pdopt": "Paddle optimiser state",
    ".pdstates": "Paddle training state",
    ".onnx": "ONNX",
}
_ASKED = "; how its stem pads is asked for: @pool_padding=zero or exclude (docs/weights.md)"
_MAX_NETWORKS = 16  # what a person reads; a hostile file may claim thousands
_NOT_LOADED = (".pdopt", ".pdstates", ".onnx")  # looked into, never loaded


def inspect_file(path: Path, wanted: Wanted | None = None) -> dict[str, Any]:
    """Facts of a weight file, a run's folder, an inference archive or an ONNX file, as plain JSON.

    Of a checkpoint with several dicts of tensors ``wanted.key`` says which one is looked into, and
    ``wanted.prefix`` which tensors of it.

    ``path``, ``format``, ``bytes`` (None for a folder), ``sha256``, ``metadata``, ``tensors`` (one
    dict each: name, shape, dtype, nonfinite), ``networks`` (one dict each: prefix, style, variant,
    n_tensors, parameters, num_classes, loads: 'yes', what it takes or what prevents it),
    ``may_load`` (False for what is looked into but never loaded), ``below``: the keys of the dicts
    above the tensors, ``places``: all such keys below which a network of ours lies,
    ``left_aside``: the names of everything else in it. Raises ``WeightsError`` for what is refused.
    """
    path = Path(path)
    if (path / "student.safetensors").is_file():
        path = path / "student.safetensors"
    if path.suffix in (".pdopt", ".pdstates"):
        file = _training_state(path)
    elif path.suffix == ".onnx":
        file = _onnx(path)
    elif is_archive(path):
        file = _archive(path)
    else:
        file = read_file(path, wanted)
    if wanted is not None and wanted.below(file.below).prefix is not None:
        chosen = choose_names(file.tensors, wanted.below(file.below), path)
        tensors = {key: file.tensors[key] for key in chosen.names}
        file = dataclasses.replace(file, tensors=tensors, left_aside=chosen.rest + file.left_aside)
    return {
        "path": str(path),
        "format": _format(path),
        "bytes": path.stat().st_size if path.is_file() else None,
        "sha256": file_sha256(path),
        "metadata": dict(sorted(file.metadata.items())),
        "tensors": [
            {
                "name": key,
                "shape": list(value.shape),
                "dtype": str(value.dtype).removeprefix("torch."),
                "nonfinite": _nonfinite(value),
            }
            for key, value in file.tensors.items()
        ],
        "networks": _networks(file),
        "may_load": path.suffix not in _NOT_LOADED,
        "below": file.below,
        "places": list(file.places),
        "left_aside": list(file.left_aside),
    }


def _format(path: Path) -> str:
    if is_archive(path):
        return "inference archive" + ("" if kind_of(path) == "tar" else ", unpacked")
    kind = kind_of(path)
    name = _NAMED.get(path.suffix, "") if kind in ("pickle", "unknown") else ""
    name = name or _FORMATS.get(kind, "unknown")
    if kind == "pickle":
        with path.open("rb") as file:
            name += f", pickle protocol {file.read(2)[1]}"
    return name


def _nonfinite(value: Tensor) -> int:
    return int((~torch.isfinite(value)).sum()) if value.is_floating_point() else 0


def _networks(file: WeightFile) -> list[dict[str, Any]]:
    """Every network of ours in a file, below its prefix."""
    tensors = file.tensors
    found = []
    said = POOL_PADDING in file.metadata
    inside: dict[str, dict[str, Tensor]] = {p: {} for p in network_prefixes(tensors)}
    for key, value in tensors.items():
        starts = [key[: dot.end()] for dot in re.finditer(r"\.", key)]
        # Of networks inside one another, such as a teacher beside a student, the inner one.
        prefix = next((start for start in [*reversed(starts), ""] if start in inside), None)
        if prefix is not None:
            inside[prefix][key.removeprefix(prefix)] = value
    for prefix, raw in list(inside.items())[:_MAX_NETWORKS]:
        style = styles.recognise(raw)
        if style is None:
            continue
        state = styles.to_ours(raw, style)
        foreign = foreign_head(state, style)
        state = {key: value for key, value in state.items() if key not in foreign}
        variant = identify(state)
        found.append(
            {
                "prefix": prefix,
                "style": style.name,
                "names_of": style.home,
                "variant": variant,
                "n_tensors": len(state),
                "parameters": sum(v.numel() for k, v in state.items() if "running_" not in k),
                "num_classes": state["fc.bias"].numel() if "fc.bias" in state else None,
                "loads": _loads(state, variant)
                + ("" if said or usual_padding(state, style) else _ASKED),
            }
        )
    return found


def _loads(state: Mapping[str, Tensor], variant: str | None) -> str:
    if variant is None:
        return "no: its tensors fit none of our networks"
    for key, value in state.items():
        if not value.is_floating_point():
            return f"no: {key} is {value.dtype}, not a floating-point tensor"
        if _nonfinite(value):
            return f"no: {key} contains NaN or infinite values"
        if key.endswith("running_var") and bool((value < 0).any()):
            return f"no: {key} is a variance with negative values"
    if not any(key.partition(".")[0] in styles.CLASSIFIER for key in state):
        return "with head: reinit, which starts the whole classifier afresh: it is a backbone alone"
    if not {"fc.weight", "fc.bias"} <= state.keys():
        return "with head: reinit, which starts fc afresh"
    return "yes"


def _training_state(path: Path) -> WeightFile:
    """A .pdopt or .pdstates: its arrays by dotted names, and the rest by name and value."""
    tensors, rest = {}, []
    for name, value in _leaves(read_object(path)):
        if isinstance(value, np.ndarray):
            tensors[name] = torch.from_numpy(value.copy())
        else:
            rest.append(f"{name} = {str(value)[:60]}")
    return WeightFile(tensors, {}, tuple(rest))


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], np.ndarray):
        yield name, value[1]  # Paddle's (framework name, array)
    elif isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            if key == NAMES_KEY:  # which framework name each of them has: nothing of its own
                continue
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _archive(path: Path) -> WeightFile:
    """An inference archive: our network by its names, another one by its program's variables."""
    try:
        return read_file(path)
    except WeightsError as error:
        variables = read_variables(path)  # raises for what is damaged, not merely unknown
        tensors = {name: torch.from_numpy(value.copy()) for name, value in variables.items()}
        return WeightFile(tensors, {}, (f"the reason why it is no network of ours: {error}",))


def _onnx(path: Path) -> WeightFile:
    """An ONNX file's metadata and weights; operators and their code are not looked at."""
    import onnx
    from onnx import numpy_helper

    file = examine_onnx(path)
    with foreign_file(path, WeightsError):
        model = onnx.load_from_string(file.content)
    tensors: dict[str, Tensor] = {}
    rest = []
    for name, item in _onnx_tensors(model.graph):
        if name in tensors:
            raise WeightsError(f"{path}: {brief_value(name)} twice")
        if item.data_location == onnx.TensorProto.EXTERNAL or item.external_data:
            rest.append(f"{name} (in another file)")
            continue
        with foreign_file(path, WeightsError, f"has a damaged tensor {brief_value(name)}"):
            try:
                tensors[name] = torch.from_numpy(numpy_helper.to_array(item).copy())
            except TypeError:  # a type that NumPy itself has not, such as int4
                rest.append(f"{name} ({onnx.TensorProto.DataType.Name(item.data_type)})")
    return WeightFile(tensors, file.props, tuple(rest))


def _onnx_tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """The weights of a graph by name: its initialisers, and the tensors of Constant nodes, where
    paddle2onnx keeps them; numbers without a dimension and integers there are no weights."""
    import onnx

    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16,
              onnx.TensorProto.BFLOAT16)  # fmt: skip
    for item in graph.initializer:
        yield item.name, item
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                item = attribute.t
                if attribute.name == "value" and item.dims and item.data_type in floats:
                    yield next(iter(node.output), node.name), item
