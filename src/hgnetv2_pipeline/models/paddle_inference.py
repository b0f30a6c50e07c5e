"""Paddle's inference models: the folder or ``*_infer.tar`` that PaddleClas exports, as tensors.

An archive holds a program (``inference.pdmodel``, or ``inference.json`` of Paddle 3), the tensors
(``inference.pdiparams``) and, from Paddle 2, a table of names (``inference.pdiparams.info``).
``.pdiparams`` has no names: it is one tensor after the other in the sorted order of the program's
persistable variables, each as uint32 0, uint64 number of LoD levels (0), uint32 version (0),
int32 length of a TensorDesc, the TensorDesc, and the raw little-endian data. Nothing in an archive
is run or unpacked to disk.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hgnetv2_pipeline.durable import sha256_file, sha256_json
from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.models import paddle_pickle
from hgnetv2_pipeline.models.paddle_names import Layouts, names_from_info, names_from_program
from hgnetv2_pipeline.models.paddle_pickle import read_object
from hgnetv2_pipeline.models.paddle_program import (
    Declared,
    Program,
    brief,
    read_pdmodel,
    read_pir,
    read_tensor_desc,
)
from hgnetv2_pipeline.models.tar_members import Member, find_members

PDMODEL, PIR = "inference.pdmodel", "inference.json"
TENSORS, INFO = "inference.pdiparams", "inference.pdiparams.info"
_ALL = (PDMODEL, PIR, TENSORS, INFO)
_MAX_PDMODEL = 64 << 20  # with Python's call stack at every operation it is a few MB
_MAX_TEXT = 8 << 20  # inference.json of a B6 is about 1 MB, .info 100 kB
_HEADER = struct.Struct("<IQIi")
_MAX_DESC = 256


def is_archive(path: Path) -> bool:
    """Whether ``path`` is what ``read_inference`` reads: a .tar, or a folder with .pdiparams."""
    path = Path(path)
    return path.suffix == ".tar" or (path / TENSORS).is_file()


def archive_sha256(path: Path) -> str:
    """SHA-256 of a tar; of a folder, that of the names and SHA-256 of the files that are read."""
    path = Path(path)
    if path.is_file():
        return sha256_file(path)
    files = find_members(path, _ALL)
    return sha256_json({name: sha256_file(member.path) for name, member in files.items()})


def read_inference(path: Path, layouts: Layouts | None = None) -> dict[str, np.ndarray]:
    """Paddle's structured names -> arrays of an exported network, in Paddle's layout.

    ``path`` is a plain tar or a folder. Names come from ``.info``; without it (Paddle 3 writes
    none) from the program, which must then be one of ``layouts``, the ten networks of this package
    by default. A network exported as a student keeps ``Student.`` in front. bfloat16 comes as
    uint16, as in ``read_pdparams``. Raises ``WeightsError`` naming the file and the tensor.
    """
    members, program = _open(Path(path))
    if INFO in members:
        try:
            names = names_from_info(_read_info(members[INFO]), program)
        except WeightsError:
            raise
        except ValueError as reason:
            raise WeightsError(f"{members[INFO]} is refused: {reason}") from None
    else:
        try:
            names = names_from_program(program, layouts)
        except ValueError as reason:
            raise WeightsError(f"{path}: {reason}") from None
    tensors = _read_tensors(members[TENSORS], program.parameters)
    return {names[variable]: tensors[variable] for variable in names}


def read_variables(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an archive under their framework names (``conv2d_0.w_0``), of any network."""
    members, program = _open(Path(path))
    return _read_tensors(members[TENSORS], program.parameters)


def _open(path: Path) -> tuple[dict[str, Member], Program]:
    members = find_members(path, _ALL)
    programs = [name for name in (PDMODEL, PIR) if name in members]
    if TENSORS not in members or not programs:
        raise WeightsError(
            f"{path} is no inference model: it needs {TENSORS} and {PDMODEL} or {PIR}, and has "
            f"{', '.join(sorted(members)) or 'none of them'}"
        )
    if len(programs) > 1:
        raise WeightsError(f"{path} holds two programs, {PDMODEL} and {PIR}; leave one of them")
    member = members[programs[0]]
    try:
        if programs[0] == PIR:
            program = read_pir(member.read(_MAX_TEXT))
        else:
            program = read_pdmodel(member.read(_MAX_PDMODEL))
        if not program.parameters:
            raise ValueError("it has no parameters")
    except WeightsError:
        raise
    except (ValueError, RecursionError) as reason:
        raise WeightsError(f"{member} is refused: {reason}") from None
    return members, program


def _read_info(member: Member) -> Any:
    """The table of names, interpreted by ``paddle_pickle``; from a tar by way of memory alone."""
    if not member.name:
        return read_object(member.path)
    data = member.read(_MAX_TEXT)
    with mmap.mmap(-1, max(len(data), 1)) as source:
        source.write(data)
        source.seek(0)
        try:
            return paddle_pickle._Resolver()(paddle_pickle._Interpreter(len(source)).run(source))
        except (paddle_pickle._Refused, ValueError, OverflowError, struct.error) as reason:
            raise WeightsError(f"{member} is refused: {reason}") from None


def _read_tensors(member: Member, declared: Mapping[str, Declared]) -> dict[str, np.ndarray]:
    """The tensors of ``.pdiparams``, of which the program declares name, shape and type."""
    tensors = {}
    with member.path.open("rb") as file:
        file.seek(member.offset)
        left = member.size

        def take(count: int, what: str) -> bytearray:
            nonlocal left
            if count > left:
                raise ValueError(f"it is cut short: {what} needs {count:,} bytes of {left:,}")
            left -= count
            data = bytearray(count)
            if file.readinto(data) != count:
                raise ValueError("it changed while it was read")
            return data

        try:
            for variable in sorted(declared):
                name = brief(variable)
                form, levels, version, length = _HEADER.unpack(take(_HEADER.size, name))
                if (form, levels, version) != (0, 0, 0):
                    raise ValueError(
                        f"{name} begins with {form}, {levels}, {version}, not three zeros"
                    )
                if not 0 < length <= _MAX_DESC:
                    raise ValueError(f"{name} has a description of {length} bytes")
                found = read_tensor_desc(memoryview(take(length, name)), name)
                wanted = declared[variable]
                if found != wanted:
                    raise ValueError(
                        f"{name} is {found.dtype} {list(found.shape)} where the program has "
                        f"{wanted.dtype} {list(wanted.shape)}"
                    )
                kind = np.dtype(found.dtype).newbyteorder("<")
                data = take(math.prod(found.shape) * kind.itemsize, name)
                tensors[variable] = np.frombuffer(data, kind).reshape(found.shape)
            if left:
                raise ValueError(f"{left:,} bytes follow its last tensor, {name}")
        except ValueError as reason:
            raise WeightsError(f"{member} is refused: {reason}") from None
    return tensors
