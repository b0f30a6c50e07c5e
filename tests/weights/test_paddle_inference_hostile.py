"""Damaged and hostile archives: refused with the file's name, nothing unpacked, nothing run."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from paddle_archive_writer import (
    Tiny,
    network,
    part,
    pdiparams,
    pdmodel,
    pir,
    record,
    tar_bytes,
    tensor_desc,
    varint,
    write_folder,
)

from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.weights.paddle.inference import read_inference

GOLDEN = Path(__file__).parents[1] / "golden" / "paddle_files"
Files = dict[str, bytes]
TENSORS, PDMODEL, PIR = "inference.pdiparams", "inference.pdmodel", "inference.json"
INFO = "inference.pdiparams.info"
VALUES = dict(np.load(GOLDEN / "tiny_values.npz"))
LAYOUT = {"tiny": {name: value.shape for name, value in VALUES.items()}}


def golden(folder: str) -> Files:
    return {file.name: file.read_bytes() for file in sorted((GOLDEN / folder).iterdir())}


LEGACY, NEW = golden("tiny_legacy"), golden("tiny_pir")


def tar_with(*changes: Callable[[tarfile.TarFile], None], files: Files = LEGACY) -> bytes:
    out = io.BytesIO(tar_bytes(files))
    with tarfile.open(fileobj=out, mode="a") as tar:
        for change in changes:
            change(tar)
    return out.getvalue()


def add(name: str, data: bytes = b"", **fields: object) -> Callable[[tarfile.TarFile], None]:
    def change(tar: tarfile.TarFile) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        for key, value in fields.items():
            setattr(entry, key, value)
        tar.addfile(entry, io.BytesIO(data) if data else None)

    return change


def without(name: str) -> Files:
    return {key: data for key, data in LEGACY.items() if key != name}


def header_at(archive: bytes, name: str) -> int:
    return archive.index(f"tiny_infer/{name}\0".encode())


def with_header(archive: bytes, name: str, start: int, field: bytes) -> bytes:
    """``archive`` with bytes of one header replaced and its checksum made right again."""
    at = header_at(archive, name)
    block = bytearray(archive[at : at + 512])
    block[start : start + len(field)] = field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return archive[:at] + bytes(block) + archive[at + 512 :]


PLAIN = tar_bytes(LEGACY)
HUGE = b"\x80" + (1 << 62).to_bytes(11, "big")

TARS = {
    "a name that climbs": (
        tar_with(add(f"../../{TENSORS}", LEGACY[TENSORS]), files=without(TENSORS)),
        "leads out of the archive",
    ),
    "an absolute name": (
        tar_with(add(f"/etc/{TENSORS}", LEGACY[TENSORS]), files=without(TENSORS)),
        "leads out of the archive",
    ),
    "a symbolic link": (
        tar_with(
            add(f"tiny_infer/{TENSORS}", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
            files=without(TENSORS),
        ),
        "is a symbolic link, not a file",
    ),
    "a hard link": (
        tar_with(
            add(f"tiny_infer/{TENSORS}", type=tarfile.LNKTYPE, linkname="tiny_infer/x"),
            files=without(TENSORS),
        ),
        "is a hard link, not a file",
    ),
    "a device": (
        tar_with(add(f"tiny_infer/{TENSORS}", type=tarfile.CHRTYPE), files=without(TENSORS)),
        "is a device, not a file",
    ),
    "a pipe": (
        tar_with(add(f"tiny_infer/{TENSORS}", type=tarfile.FIFOTYPE), files=without(TENSORS)),
        "is a pipe, not a file",
    ),
    "a sparse member of GNU's old form": (
        with_header(PLAIN, TENSORS, 156, b"S"),
        "is a sparse file, not a file",
    ),
    "a member twice": (
        tar_with(add(f"tiny_infer/{TENSORS}", LEGACY[TENSORS])),
        "is there twice",
    ),
    "two networks": (tar_with(add(f"other/{TENSORS}", LEGACY[TENSORS])), "holds several networks"),
    "a size past the end": (
        with_header(PLAIN, "inference.pdmodel", 124, b"77777777777\0"),
        "from byte .* the archive ends before this member does .its member tiny_infer/",
    ),
    "a size beyond all": (
        with_header(PLAIN, "inference.pdmodel", 124, HUGE),
        "ends before this member",
    ),
    "a negative size": (
        with_header(PLAIN, "inference.pdmodel", 124, b"\xff" * 12),
        "a negative or garbled size",
    ),
    "a garbled size": (
        with_header(PLAIN, "inference.pdmodel", 124, b"12x45678901\0"),
        "garbled number",
    ),
    "a wrong checksum": (
        PLAIN[:700].replace(b"tiny", b"Tiny") + PLAIN[700:],
        "begins no tar header",
    ),
    "a cut in a member": (
        PLAIN[: header_at(PLAIN, "inference.pdmodel") + 900],
        "ends before this member",
    ),
    "a cut between members": (PLAIN[: header_at(PLAIN, "inference.pdmodel")], "no end mark"),
    "nothing": (b"", "not a tar archive"),
    "zeros": (bytes(10240), "not a tar archive"),
    "a web page": (b"<html>" + bytes(2000), "looks like a web page"),
    "compressed": (gzip.compress(PLAIN), "it is compressed .gzip."),
    "a bomb": (gzip.compress(bytes(10 << 20)), "it is compressed .gzip."),
    "no program": (tar_bytes(without(PDMODEL)), "is no inference model"),
    "no tensors": (tar_bytes(without(TENSORS)), "is no inference model"),
    "two programs": (tar_bytes(LEGACY | {PIR: NEW[PIR]}), "holds two programs"),
    "names that run code": (
        tar_bytes(LEGACY | {INFO: pickle.dumps(print, 2)}),
        r"asks for __builtin__\.print",
    ),
    "names that are none": (tar_bytes(LEGACY | {INFO: pickle.dumps([1], 2)}), "holds a list"),
}


@pytest.mark.parametrize("case", TARS)
def test_hostile_tars_are_refused_by_name(case, tmp_path):
    data, reason = TARS[case]
    path = tmp_path / "x_infer.tar"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=reason) as refusal:
        read_inference(path, LAYOUT)
    assert "x_infer.tar" in str(refusal.value)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"GNU.sparse.major": "1", "GNU.sparse.realsize": "9999999"}, "is a sparse file"),
        ({"size": "99999999999999999"}, "ends before this member"),
        ({"size": "-512"}, "garbled size"),
        ({"path": f"../{TENSORS}"}, "leads out"),
    ],
)
def test_extended_headers_that_lie_are_refused(headers, reason, tmp_path):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in LEGACY.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.pax_headers = headers if name == TENSORS else {}
            tar.addfile(entry, io.BytesIO(data))
    path = tmp_path / "x.tar"
    path.write_bytes(out.getvalue())
    with pytest.raises(WeightsError, match=reason):
        read_inference(path)


# --- tensors --------------------------------------------------------------------------------------

NET = network(Tiny())
VARIABLES = {NET.framework[name]: value for name, value in VALUES.items()}
FIRST = "batch_norm2d_0.b_0"  # the first in sorted order
ONE = record(VARIABLES[FIRST])
REST = LEGACY[TENSORS][len(ONE) :]


def described(desc: bytes) -> bytes:
    return record(VARIABLES[FIRST], desc) + REST


BROKEN_TENSORS = {
    "cut in the data": (LEGACY[TENSORS][:-1], r"cut short: linear_0\.w_0"),
    "cut in a header": (ONE + REST[:7], r"cut short: batch_norm2d_0\.w_0"),
    "empty": (b"", r"cut short: batch_norm2d_0\.b_0"),
    "a byte too many": (LEGACY[TENSORS] + b"\0", r"1 bytes follow its last tensor, linear_0\.w_0"),
    "a tensor too many": (LEGACY[TENSORS] + ONE, "bytes follow its last tensor"),
    "a tensor twice": (ONE + LEGACY[TENSORS], r"conv2d_0\.w_0 is f4 \[4\] where the program has"),
    "a tensor missing": (REST, r"is f4 \[4, 3, 3, 3\] where the program has"),
    "another shape": (described(tensor_desc(5, (2, 2))), r"b_0 is f4 \[2, 2\] where the program"),
    "another type": (described(tensor_desc(2, (4,))), r"b_0 is i4 \[4\] where the program has f4"),
    "an unknown type": (described(tensor_desc(99, (4,))), r"b_0 has the type \[99\]"),
    "no type": (described(part(2, 4)), r"b_0 has the type \[\]"),
    "two types": (described(part(1, 5) + tensor_desc(5, (4,))), "has the type"),
    "a negative dimension": (described(tensor_desc(5, (-4,))), r"impossible shape \[-4\]"),
    "a zero dimension": (described(tensor_desc(5, (0,))), "impossible shape"),
    "a huge dimension": (described(tensor_desc(5, (1 << 62,))), "impossible shape"),
    "dimensions whose product is huge": (
        described(tensor_desc(5, (1 << 39, 1 << 39))),
        "where the program has",
    ),
    "nine dimensions": (described(tensor_desc(5, (1,) * 9)), "impossible shape"),
    "packed without end": (described(part(1, 5) + part(2, b"\1" * 70)), "more than 64 numbers"),
    "a long description": (described(tensor_desc(5, (4,)) * 90), "description of"),
    "a description of negative length": (struct.pack("<IQIi", 0, 0, 0, -1) + REST, "of -1 bytes"),
    "a description longer than the file": (
        struct.pack("<IQIi", 0, 0, 0, 200) + b"\x08\x05",
        "cut short",
    ),
    "an unknown field": (described(tensor_desc(5, (4,)) + part(7, 1)), "an unknown field 7"),
    "a number without end": (described(b"\x08" + b"\x80" * 12), "more than 64 bits"),
    "LoD levels": (struct.pack("<IQIi", 0, 1, 0, 4) + ONE[20:] + REST, "not three zeros"),
    "another version": (struct.pack("<IQIi", 1, 0, 0, 4) + ONE[20:] + REST, "not three zeros"),
}


@pytest.mark.parametrize("files", [LEGACY, NEW], ids=["pdmodel", "pir"])
@pytest.mark.parametrize("case", BROKEN_TENSORS)
def test_tensors_that_are_not_as_the_program_says_are_refused_by_name(case, files, tmp_path):
    data, reason = BROKEN_TENSORS[case]
    folder = write_folder(tmp_path / "x", files | {TENSORS: data})
    with pytest.raises(WeightsError, match=reason) as refusal:
        read_inference(folder, LAYOUT)
    assert f"x/{TENSORS} is refused" in str(refusal.value)


# --- programs -------------------------------------------------------------------------------------


def variable(name: str, desc: bytes, kind: int = 7) -> bytes:
    body = part(1, kind) + part(3, part(1, desc))
    return part(3, part(1, name) + part(2, body) + part(3, 1))


BROKEN_PDMODELS = {
    "empty": (b"", "no program"),
    "a page": (b"<html></html>", "wire type"),
    "cut": (LEGACY[PDMODEL][:-9], "past the end|cut short"),
    "a length past the end": (b"\x0a" + varint(1 << 40) + b"x", "a length of more than 31 bits"),
    "a number without end": (b"\x08" + b"\xff" * 11, "more than 64 bits"),
    "a number of 65 bits": (b"\x08" + b"\xff" * 9 + b"\x7f", "more than 64 bits"),
    "a group": (b"\x0b\x0c", "wire type 3"),
    "field number 0": (b"\x00\x01", "number 0"),
    "a number for a block": (part(1, 5), "where a message is expected"),
    "a variable twice": (part(1, variable("w", tensor_desc(5, (4,))) * 2), "'w' twice"),
    "a nameless variable": (part(1, variable("", tensor_desc(5, (4,)))), "nameless"),
    "a variable that is no tensor": (part(1, variable("w", b"", 8)), "of type 8, not a tensor"),
    "a name that is not text": (part(1, part(3, part(1, b"\xff\xfe"))), "utf-8"),
    "a negative dimension": (part(1, variable("w", tensor_desc(5, (-1,)))), "impossible shape"),
    "a million fields": (part(1, b"\x08\x00" * 1_000_000), "more than 500,000 fields"),
    "a convolution without a weight": (
        part(1, part(4, part(1, part(1, "Input") + part(2, "x")) + part(3, "conv2d"))),
        "conv2d with 0 inputs Filter",
    ),
    "no parameters": (part(1, part(1, 0)), "has no parameters"),
}


@pytest.mark.parametrize("case", BROKEN_PDMODELS)
def test_damaged_pdmodels_are_refused_by_name(case, tmp_path):
    data, reason = BROKEN_PDMODELS[case]
    folder = write_folder(tmp_path / "x", without(INFO) | {PDMODEL: data})
    with pytest.raises(WeightsError, match=reason) as refusal:
        read_inference(folder, LAYOUT)
    assert str(folder) in str(refusal.value)


def edited(change: Callable[[list], object]) -> bytes:
    root = json.loads(NEW[PIR])
    change(root["program"]["regions"][0]["blocks"][0]["ops"])
    return json.dumps(root).encode()


BROKEN_PIRS = {
    "empty": (b"", "Expecting value"),
    "not text": (b"\xff\xfe{}", "utf-8"),
    "deep": (b"[" * 100_000, "nested deeper than 64"),
    "deep in a string's shadow": (b'{"\\"[": ' + b'{"a":' * 100_000, "nested deeper than 64"),
    "deep behind quotes without end": (b"[" * 60 + b'"\\"' * 200_000, "Unterminated|delimiter"),
    "NaN": (NEW[PIR].replace(b'"version":4', b'"version":NaN'), "the number NaN"),
    "a key twice": (NEW[PIR].replace(b'"version":4', b'"version":4,"version":5'), "key twice"),
    "a number of many digits": (
        NEW[PIR].replace(b'"version":4', b'"version":' + b"9" * 9999),
        "refused",
    ),
    "another format": (NEW[PIR].replace(b'"pir"', b'"onnx"'), "no PIR program"),
    "a list": (b"[]", "'base_code' is missing"),
    "no regions": (b'{"base_code":{"magic":"pir"},"program":{"regions":[]}}', "0 regions"),
    "text behind": (NEW[PIR] + b"x", "Extra data"),
    "a parameter twice": (edited(lambda ops: ops.insert(0, ops[0])), r"'linear_0\.b_0' twice"),
    "a nameless parameter": (edited(lambda ops: ops[0].update(A=[0, 1, 1, ""])), "nameless"),
    "a parameter without attributes": (edited(lambda ops: ops[0].update(A=[])), "without a name"),
    "a dimension that is true": (
        edited(lambda ops: ops[0]["O"]["TT"]["D"].__setitem__(1, [True])),
        "impossible shape",
    ),
    "a dimension of 1e300": (
        edited(lambda ops: ops[0]["O"]["TT"]["D"].__setitem__(1, [1e300])),
        "impossible shape",
    ),
    "an unknown type": (
        edited(lambda ops: ops[0]["O"]["TT"]["D"].__setitem__(0, {"#": "0.t_c64"})),
        r"linear_0\.b_0 has the type c64",
    ),
    "an operation without operands": (edited(lambda ops: ops[9].update(I=[])), "with 0 inputs"),
    "an operation that is none": (edited(lambda ops: ops.append(7)), "'#' is missing"),
    "a value that is no number": (edited(lambda ops: ops[9].update(I=[{"%": "8"}])), "no int"),
}


@pytest.mark.parametrize("case", BROKEN_PIRS)
def test_damaged_pir_programs_are_refused_by_name(case, tmp_path):
    data, reason = BROKEN_PIRS[case]
    folder = write_folder(tmp_path / "x", NEW | {PIR: data})
    with pytest.raises(WeightsError, match=reason) as refusal:
        read_inference(folder, LAYOUT)
    assert str(folder / PIR) in str(refusal.value)


def test_files_beyond_the_size_of_any_program_are_not_read(tmp_path):
    folder = write_folder(tmp_path / "x", {TENSORS: b"", PIR: b""})
    with (folder / PIR).open("wb") as file:
        file.truncate(1 << 40)  # a hole: no disk is used
    with pytest.raises(WeightsError, match=r"1,099,511,627,776 bytes; 8,388,608 at most"):
        read_inference(folder)


# --- mutations ------------------------------------------------------------------------------------


def mutate(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    kind = draw.randrange(6)
    if kind == 0:  # one bit
        return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
    if kind == 1:  # one byte
        return data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]
    if kind == 2:  # cut off
        return data[:at]
    end = min(len(data), at + draw.randrange(1, 64))
    if kind == 3:  # cut out
        return data[:at] + data[end:]
    if kind == 4:  # doubled
        return data[:end] + data[at:end] + data[end:]
    grafts = (b"\xff" * 9, b"\x80" * 11, b"\0" * 8, b"[[[[", b'{"#":"p"}', b"-1", b"1e999")
    return data[:at] + draw.choice(grafts) + data[at:]


def survive(count: int, folder: Path, seed: int) -> tuple[int, int]:
    """(read, refused) of ``count`` mutants of Paddle's files; anything else is raised."""
    draw = random.Random(seed)
    tars = {"legacy": tar_bytes(LEGACY), "new": tar_bytes(NEW)}
    wholes = {"legacy": LEGACY, "new": NEW}
    for kind, files in wholes.items():
        write_folder(folder / kind, files)
    read = 0
    for turn in range(count):
        kind = ("legacy", "new")[turn % 2]
        if turn % 4 < 2:
            path = folder / "mutant.tar"
            name, whole, place = "", tars[kind], path
        else:
            path = folder / kind
            name = draw.choice(sorted(wholes[kind]))
            whole, place = wholes[kind][name], path / name
        place.write_bytes(mutate(whole, draw))
        try:
            given = read_inference(path, LAYOUT)
        except WeightsError as refusal:
            assert str(path) in str(refusal)
        else:
            read += 1
            assert sum(value.nbytes for value in given.values()) == 596
        if name:
            place.write_bytes(whole)
    return read, count - read


def test_mutants_of_paddles_files_are_read_or_refused(tmp_path):
    read, refused = survive(2_000, tmp_path, 3)
    assert read > 100  # bytes of tensors or of call stacks are nobody's to check
    assert refused > 500


@pytest.mark.slow
def test_many_mutants_of_paddles_files_are_read_or_refused(tmp_path):
    read, refused = survive(40_000, tmp_path, 4)
    assert read > 2_000
    assert refused > 10_000


def test_what_the_hostile_cases_start_from_is_whole(tmp_path):
    (tmp_path / "x.tar").write_bytes(PLAIN)
    assert read_inference(tmp_path / "x.tar").keys() == VALUES.keys()
    for name, data in ((PDMODEL, pdmodel(NET, VARIABLES)), (PIR, pir(NET, VARIABLES))):
        folder = write_folder(tmp_path / name, {name: data, TENSORS: pdiparams(VARIABLES)})
        assert read_inference(folder, LAYOUT).keys() == VALUES.keys()


def test_a_path_that_the_system_refuses_is_named_too(tmp_path):
    with pytest.raises(WeightsError, match=r"a\.tar is refused: File name too long"):
        read_inference(tmp_path / ("a" * 300 + ".tar"))
