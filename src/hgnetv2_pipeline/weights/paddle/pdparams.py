"""Paddle's pickled files (.pdparams, .pdopt, .pdstates), read without running anything in them.

``pickle_machine`` interprets the opcodes; here a file becomes a value or one ``WeightsError`` that
names it. ``paddle_writer`` makes such files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.weights.pickle_machine import (
    MAX_KEY,
    PickleRefusedError,
    brief_value,
    interpret,
)
from hgnetv2_pipeline.weights.tensor_file import likeness, open_weight_file

NAMES_KEY = "StructuredToParameterName@@"  # Paddle's table of structured -> framework names
SPLIT_KEY = "UnpackBigParamInfor@@"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PaddleState:
    """What a state dict holds: its tensors, and the names of whatever else is among them."""

    tensors: dict[str, np.ndarray]
    leftovers: tuple[str, ...]  # numbers, text and None, as a training script may have added them


def read_object(path: Path) -> Any:
    """What a pickled Paddle file holds: dicts, lists, tuples, numbers, text, read-only arrays.

    For looking into files; weights are better read by ``read_pdparams``. What comes out:

    - ``.pdparams``: a dict of structured names -> arrays, and ``StructuredToParameterName@@``;
    - ``.pdopt``: a dict, or a list of one dict per optimiser, of accumulators under the framework's
      names (``conv2d_0.w_0_velocity_0``), each a tuple (name, array), and ``LR_Scheduler`` with
      the schedule's numbers;
    - ``.pdstates``: a dict of what the trainer keeps, such as ``{'metric': 0.5, 'epoch': 3}``.

    Raises ``WeightsError`` on anything that Paddle does not write.
    """
    path = Path(path)
    with open_weight_file(path) as (file, size):
        return read_stream(file, size, path)


def read_stream(stream: BinaryIO, size: int, name: object) -> Any:
    """``read_object`` of the ``size`` bytes between here and the end of ``stream``.

    ``name`` stands for the file in messages.
    """
    at = stream.tell()
    try:
        return interpret(stream, size)
    except PickleRefusedError as reason:
        stream.seek(at)
        raise WeightsError(f"{name} is refused: {reason}{likeness(stream.read(512))}") from None
    except MemoryError:
        raise WeightsError(f"{name} is {size:,} bytes long, too much for the memory here") from None


def read_pdparams(path: Path) -> dict[str, np.ndarray]:
    """Paddle's structured names -> arrays (read-only, in the file's order and layout).

    Nested dicts (``{'Teacher': {...}}``) come out as dotted names. Entries that are not tensors are
    left out and logged by name; ``read_paddle_state`` hands their names out. Raises
    ``WeightsError`` for anything that is not a state dict.

    Paddle stores bfloat16 as uint16, and nothing in the file tells it from a tensor of real uint16;
    here it stays uint16, while ``weights.read_state`` takes it for bfloat16, since a network's
    weights are never unsigned integers.
    """
    state = read_paddle_state(path)
    if state.leftovers:
        _log.warning(
            "%s: left out %d entries that are not tensors: %s%s",
            path,
            len(state.leftovers),
            ", ".join(state.leftovers[:5]),
            ", ..." if len(state.leftovers) > 5 else "",
        )
    return state.tensors


def read_paddle_state(path: Path) -> PaddleState:
    """As ``read_pdparams``, with the names of the entries that are not tensors."""
    state = read_object(path)
    if not isinstance(state, dict):
        what = f"a {type(state).__name__}"
        if isinstance(state, np.ndarray) or (isinstance(state, tuple) and len(state) == 2):
            what = "one tensor"  # paddle.save(layer.weight) writes (name, array)
        raise WeightsError(
            f"{path} holds {what}, not a state dict: paddle.save(layer.state_dict(), FILE)"
        )
    tensors: dict[str, np.ndarray] = {}
    leftovers: list[str] = []
    for name, value in _leaves(state, "", path):
        if name in tensors:  # a dotted key beside a nested dict
            raise WeightsError(f"{path} holds {name} twice")
        if value is None:
            leftovers.append(name)
        else:
            tensors[name] = value
    if not tensors:
        raise WeightsError(f"{path} holds no tensors")
    return PaddleState(tensors, tuple(leftovers))


def _leaves(
    state: dict[str, Any], prefix: str, path: Path
) -> Iterator[tuple[str, np.ndarray | None]]:
    """Dotted names and arrays; None in place of what is harmless and no tensor."""
    for key, value in state.items():
        name = f"{prefix}{key}"
        if len(name) > MAX_KEY:
            raise WeightsError(f"{path} nests its names to over {MAX_KEY} characters")
        if key == SPLIT_KEY:
            raise WeightsError(
                f"{path} splits tensors over 4 GB ({SPLIT_KEY}); save it again with protocol 4"
            )
        if key == NAMES_KEY:
            if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
                raise WeightsError(f"{path}: {name} is not a table of names")
            continue
        match value:
            case (str(), np.ndarray() as array):  # as Paddle writes what is not in a flat dict
                value = array
        if isinstance(value, np.ndarray):
            yield name, value
        elif isinstance(value, dict):
            yield from _leaves(value, f"{name}.", path)
        elif isinstance(value, str | int | float | np.generic | None):
            yield name, None
        else:
            raise WeightsError(f"{path}: {name} is a {brief_value(value)}, not a tensor")
