"""Paddle's inference models: the folder or ``*_infer.tar`` that PaddleClas exports, as tensors.

An archive holds a program (``inference.pdmodel``, or ``inference.json`` of Paddle 3), the tensors
(``inference.pdiparams``) and, from Paddle 2, a table of names (``inference.pdiparams.info``).
``.pdiparams`` has no names: it is one tensor after the other in the sorted order of the program's
persistable variables, each as uint32 0, uint64 number of LoD levels (0), uint32 version (0),
int32 length of a TensorDesc, the TensorDesc, and the raw little-endian data. Nothing in an archive
is run or unpacked to disk.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hgnetv2_pipeline.durable import sha256_file, sha256_json
from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.foreign import foreign_file
from hgnetv2_pipeline.weights.paddle.archive import InferenceFile, find_members
from hgnetv2_pipeline.weights.paddle.graph_names import Layouts, names_from_info, names_from_program
from hgnetv2_pipeline.weights.paddle.pdparams import read_stream
from hgnetv2_pipeline.weights.paddle.program import (
    DeclaredTensor,
    Program,
    brief_name,
    read_pdmodel,
    read_pir,
    read_tensor_desc,
)
from hgnetv2_pipeline.weights.tensor_file import kind_of

PDMODEL, PIR = "inference.pdmodel", "inference.json"
TENSORS, INFO = "inference.pdiparams", "inference.pdiparams.info"
_ALL = (PDMODEL, PIR, TENSORS, INFO)
_ENDINGS = tuple(name.removeprefix("inference") for name in _ALL)
_MAX_PDMODEL = 64 << 20  # with Python's call stack at every operation it is a few MB
_MAX_TEXT = 8 << 20  # inference.json of a B6 is about 1 MB, .info 100 kB
_HEADER = struct.Struct("<IQIi")
_MAX_DESC = 256


def is_archive(path: Path) -> bool:
    """Whether ``path`` is what ``read_inference`` reads: a tar, a folder with ``TENSORS``, or one
    of the files of such a folder, whatever their stem (PaddleDetection's is ``model``)."""
    path = Path(path)
    if path.is_dir():
        return (path / TENSORS).is_file()
    return _stem(path) is not None or kind_of(path) == "tar"


def _stem(path: Path) -> str | None:
    """Of one file of an unpacked archive what its files' names begin with, else None."""
    for ending in _ENDINGS:
        stem = path.name.removesuffix(ending)
        if stem and stem != path.name and path.with_name(f"{stem}.pdiparams").is_file():
            return stem
    return None


def _members(path: Path) -> dict[str, InferenceFile]:
    """The files of an archive by the names of ``_ALL``."""
    stem = None if path.is_dir() else _stem(path)
    if stem is None:
        return find_members(path, _ALL)
    names = {f"{stem}{ending}": f"inference{ending}" for ending in _ENDINGS}
    found = find_members(path.parent, names)
    return {names[name]: member for name, member in found.items()}


def archive_sha256(path: Path) -> str:
    """SHA-256 of a tar; of a folder, that of the names and SHA-256 of the files that are read."""
    path = Path(path)
    if path.is_file() and _stem(path) is None:
        return sha256_file(path)
    files = _members(path)
    return sha256_json({name: sha256_file(member.path) for name, member in files.items()})


def read_inference(path: Path, layouts: Layouts | None = None) -> dict[str, np.ndarray]:
    """Paddle's structured names -> arrays of an exported network, in Paddle's layout.

    ``path`` is a plain tar, a folder, or one of its files. Names come from ``.info``; without it
    (Paddle 3 writes none) from the program, which must then be one of ``layouts``, the ten networks
    of this package by default. A network exported as a student keeps ``Student.`` in front.
    bfloat16 comes as uint16, as in ``read_pdparams``. Raises ``WeightsError`` naming the file and
    the tensor.
    """
    members, program = _open(Path(path))
    if INFO in members:
        with _refused(members[INFO]):
            table = members[INFO].read(_MAX_TEXT)
            info = read_stream(io.BytesIO(table), len(table), members[INFO])
            names = names_from_info(info, program)
    else:
        with _refused(path):
            names = names_from_program(program, layouts)
    tensors = _read_tensors(members[TENSORS], program.parameters)
    return {names[variable]: tensors[variable] for variable in names}


def read_variables(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an archive under their framework names (``conv2d_0.w_0``), of any network."""
    members, program = _open(Path(path))
    return _read_tensors(members[TENSORS], program.parameters)


@contextmanager
def _refused(what: object) -> Iterator[None]:
    """Turns what readers raise into a ``WeightsError`` that names ``what``."""
    with foreign_file(what, WeightsError, "is refused"):
        yield


def _open(path: Path) -> tuple[dict[str, InferenceFile], Program]:
    with _refused(path):
        members = _members(path)
    programs = [name for name in (PDMODEL, PIR) if name in members]
    if TENSORS not in members or not programs:
        raise WeightsError(
            f"{path} is no inference model: it needs {TENSORS} and {PDMODEL} or {PIR}, and has "
            f"{', '.join(sorted(members)) or 'none of them'}"
        )
    if len(programs) > 1:
        raise WeightsError(f"{path} holds two programs, {PDMODEL} and {PIR}; leave one of them")
    member = members[programs[0]]
    with _refused(member):
        if programs[0] == PIR:
            program = read_pir(member.read(_MAX_TEXT))
        else:
            program = read_pdmodel(member.read(_MAX_PDMODEL))
        if not program.parameters:
            raise ValueError("it has no parameters")
    return members, program


def _read_tensors(
    member: InferenceFile, declared: Mapping[str, DeclaredTensor]
) -> dict[str, np.ndarray]:
    """The tensors of ``.pdiparams``, of which the program declares name, shape and type."""
    tensors = {}
    with _refused(member), member.path.open("rb") as file:
        file.seek(member.offset)
        source = _Source(file, member.size)
        for variable in sorted(declared):
            name, wanted = brief_name(variable), declared[variable]
            form, levels, version, length = _HEADER.unpack(source.take(_HEADER.size, name))
            if (form, levels, version) != (0, 0, 0):
                raise ValueError(f"{name} begins with {form}, {levels}, {version}, not three zeros")
            if not 0 < length <= _MAX_DESC:
                raise ValueError(f"{name} has a description of {length} bytes")
            found = read_tensor_desc(memoryview(source.take(length, name)), name)
            if found != wanted:
                raise ValueError(
                    f"{name} is {found.dtype} {list(found.shape)} where the program has "
                    f"{wanted.dtype} {list(wanted.shape)}"
                )
            kind = np.dtype(found.dtype).newbyteorder("<")
            data = source.take(math.prod(found.shape) * kind.itemsize, name)
            tensors[variable] = np.frombuffer(data, kind).reshape(found.shape)
        if source.left:
            raise ValueError(f"{source.left:,} bytes follow its last tensor, {name}")
    return tensors


class _Source:
    """The bytes of a member, handed out in order; never more memory than it has bytes."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.left = file, size

    def take(self, count: int, name: str) -> bytearray:
        if count > self.left:
            raise ValueError(f"it is cut short: {name} needs {count:,} bytes of {self.left:,}")
        self.left -= count
        data = bytearray(count)
        if self._file.readinto(data) != count:  # type: ignore[attr-defined]
            raise ValueError("it changed while it was read")
        return data
