"""PyTorch checkpoints: what PyTorch reads is read alike; what is no plain tensor costs nothing.

W09 of the fault table.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable

import pytest
import torch
from weight_mutations import check_pth, checkpoints, same, unzipped, zipped

from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.weights.load import read_file
from hgnetv2_pipeline.weights.pytorch import torch_zip

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool,
]  # fmt: skip


@pytest.mark.parametrize("number", range(5))
def test_what_pytorch_saves_is_read_as_pytorch_reads_it(number, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(checkpoints()[number])
    if number < 4:
        assert check_pth(path, None) == "read"
    else:
        with pytest.raises(WeightsError, match="holds more than tensors: size"):
            read_file(path)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_plain_type_and_layout_is_read_bit_for_bit(dtype, tmp_path):
    values = (torch.arange(120) % 7).to(dtype)
    state = {
        "whole": values.reshape(2, 3, 4, 5),
        "turned": values.reshape(10, 12).t(),
        "steps": values[3:90:4],
        "part": values[7:20],
        "one": values[5],
        "none": values[:0].reshape(0, 3),
        "last": values.reshape(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    torch.save(state, tmp_path / "w.pth")
    same(read_file(tmp_path / "w.pth").tensors, state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "args": {"lr": 0.5, 3: [None, True, 2**40]}},
        lambda state: {"model": state, "rng": torch.get_rng_state(), "shape": torch.Size([2])},
        lambda state: {"model": state, "device": torch.device("cuda:1"), "type": torch.bfloat16},
        lambda state: {"ema": {"module": state}, "names": {"a", "b"}, "raw": b"\x00\xff"},
        lambda state: {"model": state, "f8": torch.ones(2).to(torch.float8_e4m3fn)},
        lambda state: {"model": state, "sparse": torch.eye(3).to_sparse()},
    ],
)
def test_a_checkpoint_is_read_whatever_harmless_things_lie_beside_it(wrap, tmp_path):
    state = {"w": torch.arange(4.0), "p": torch.nn.Parameter(torch.ones(2))}
    torch.save(wrap(state), tmp_path / "w.pth")
    same(read_file(tmp_path / "w.pth").tensors, {k: v.detach() for k, v in state.items()})


def nested_tensor() -> torch.Tensor:
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


def quantised() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: torch.zeros(1, dtype=torch.half).expand(30_000, 10_000), "expanded"),
        (lambda: torch.zeros(1).expand(100_000, 100_000), "expanded"),
        (lambda: torch.zeros(3, 1, dtype=torch.double).expand(3, 7), "expanded"),
        (lambda: torch.zeros(50).expand(2, 50)[:, :9], "expanded"),
        (lambda: torch.zeros(40).as_strided((30, 11), (1, 1)), "more values than its storage"),
        (lambda: torch.eye(3).to_sparse(), "sparse"),
        (lambda: torch.eye(3).to_sparse_csr(), "sparse"),
        (lambda: torch.eye(4).to_sparse_bsr((2, 2)), "sparse"),
        (lambda: torch.zeros(2, 2, device="meta"), "meta"),
        (quantised, "quantised"),
        (nested_tensor, "nested"),
        (lambda: torch.zeros(2, dtype=torch.complex64), "ComplexFloatStorage; known are float32"),
        (lambda: torch.ones(2).to(torch.float8_e5m2), r"of type torch\.float8_e5m2"),
        (lambda: torch.ones(2, dtype=torch.uint16), r"of type torch\.uint16"),
    ],
)
def test_what_is_no_plain_tensor_is_refused_by_name(make, told, tmp_path):
    """W09."""
    torch.save({"a": torch.ones(2), "layer.odd": make()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=rf"w\.pth is refused: layer\.odd .*{told}") as caught:
        read_file(tmp_path / "w.pth")
    assert str(caught.value).isprintable()


def test_values_under_too_many_names_are_refused_and_tied_ones_are_not(tmp_path):
    values = torch.zeros(10_000)
    torch.save({"a": values, "b": values}, tmp_path / "tied.pth")
    assert len(read_file(tmp_path / "tied.pth").tensors) == 2
    torch.save({f"w{i}": values for i in range(9)}, tmp_path / "many.pth")
    with pytest.raises(WeightsError, match="the same values under too many names"):
        read_file(tmp_path / "many.pth")


def spoilt(how: str) -> bytes:
    content = checkpoints()[0]
    members = unzipped(content)
    name = next(key for key in members if key.endswith("/data.pkl"))
    top = name.partition("/")[0]
    values = f"{top}/data/0"
    at = content.rfind(b"PK\x01\x02")
    ways: dict[str, Callable[[], bytes]] = {
        "a compressed tensor": lambda: zipped(members | {values: bytes(96)}, compressed=values),
        "a compressed description": lambda: zipped(members, compressed=name),
        "a bomb of zeros": lambda: zipped(members | {values: bytes(10**7)}, compressed=values),
        "too few bytes": lambda: zipped(members | {values: bytes(95)}),
        "too many bytes": lambda: zipped(members | {values: bytes(97)}),
        "no bytes": lambda: zipped({k: v for k, v in members.items() if k != values}),
        "no description": lambda: zipped({k: v for k, v in members.items() if k != name}),
        "two folders": lambda: zipped(members | {"other/data/0": b""}),
        "a program": lambda: zipped(members | {f"{top}/code/__torch__.py": b"def forward(): ..."}),
        "big-endian": lambda: zipped(members | {f"{top}/byteorder": b"big"}),
        "cut short": lambda: content[:-300],
        "encrypted": lambda: content[: at + 8] + b"\x01" + content[at + 9 :],
        "a member twice": lambda: with_member(content, name, members[name]),
        "text behind a name": lambda: zipped(
            members | {name: pickle.dumps({"a\x1b[31m": 1, "w": 2}, 2)}
        ),
        "numbers for names": lambda: zipped(members | {name: pickle.dumps({7: 1}, 2)}),
        "a web page": lambda: b"<html>not found</html>",
    }
    return ways[how]()


def with_member(content: bytes, name: str, member: bytes) -> bytes:
    """The zip archive with one more member, which may bear the name of another."""
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning):
        archive.writestr(name, member)
    return file.getvalue()


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("a compressed tensor", "data/0' is compressed"),
        ("a compressed description", "data.pkl' is compressed"),
        ("a bomb of zeros", "data/0' is compressed"),
        ("too few bytes", "0.weight has 95 bytes in the file where 96 are announced"),
        ("too many bytes", "0.weight has 97 bytes in the file where 96 are announced"),
        ("no bytes", "the values of 0.weight are not in the file"),
        ("no description", "without the data.pkl"),
        ("two folders", "of 2 folders"),
        ("a program", "TorchScript"),
        ("big-endian", "big-endian"),
        ("cut short", "no whole zip archive"),
        ("encrypted", "encrypted"),
        ("a member twice", "data.pkl' twice"),
        ("text behind a name", r"control characters: a\\x1b"),
        ("numbers for names", "a key of the state dict that is not text"),
        ("a web page", "web page"),
    ],
)
def test_a_damaged_or_foreign_archive_is_refused_for_its_own_reason(how, told, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(spoilt(how))
    with pytest.raises(WeightsError, match=told) as caught:
        read_file(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()


class Attack:
    def __reduce__(self):
        import os

        return os.system, ("touch executed",)


@pytest.mark.parametrize(
    "value",
    [Attack(), {"w": Attack()}, {"w": torch.nn.Linear(2, 2)}, {"w": range(2**60)}, {"w": 1j}],
)
def test_what_asks_for_a_function_is_refused_and_nothing_runs(value, tmp_path, monkeypatch):
    """W09. ``torch.load`` without ``weights_only`` would run it; nothing here goes back to that."""
    monkeypatch.chdir(tmp_path)
    torch.save(value, "w.pth")
    with pytest.raises(WeightsError, match="it asks for .* which is never run here"):
        read_file(tmp_path / "w.pth")
    assert not (tmp_path / "executed").exists()


def with_64_bits(content: bytes) -> bytes:
    """A zip archive whose end says that the numbers are in the record for 64 bits before it."""
    at = content.rfind(b"PK\x05\x06")
    count, length, start = struct.unpack("<HII", content[at + 10 : at + 20])
    record = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, start)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1)
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    return content[:at] + record + locator + end


@pytest.mark.parametrize("end", [lambda content: content, with_64_bits])
def test_members_of_zips_are_found_where_pythons_own_reader_finds_them(end, monkeypatch):
    content = end(zipped({f"a/{number}": b"x" * (number % 5) for number in range(20)}))
    found = torch_zip.zip_members(io.BytesIO(content), len(content))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert list(found) == archive.namelist()
        for name, member in found.items():
            assert content[member.offset : member.offset + member.size] == archive.read(name)
    monkeypatch.setattr(torch_zip, "_MAX_MEMBERS", 19)
    with pytest.raises(ValueError, match="20 members"):
        torch_zip.zip_members(io.BytesIO(content), len(content))


def before_1_6(state: dict[str, torch.Tensor]) -> bytes:
    """A checkpoint as PyTorch wrote it before 1.6: five pickles, then the storages."""
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def test_a_checkpoint_of_before_1_6_is_read(tmp_path):
    base = torch.arange(12.0)
    state = {
        "w": torch.randn(3, 4),
        "half": torch.randn(5).half(),
        "view": base[2:8].reshape(2, 3).t(),
        "same": base,
        "count": torch.tensor(7),
        "none": torch.empty(0, 3),
    }
    path = tmp_path / "w.pth"
    for content in (state, {"state_dict": state, "epoch": 3}):
        path.write_bytes(before_1_6(content))
        found = read_file(path).tensors
        assert found.keys() == state.keys()
        for key, value in state.items():
            assert torch.equal(found[key], value)
            assert found[key].dtype == value.dtype


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda c: c[:-1], "it is cut short"),
        (lambda c: c[:200], "it is cut short|opcode"),
        (lambda c: c + b"x", "1 bytes follow the last storage"),
        (lambda c: c.replace(b"M\xe9\x03.", b"M\xea\x03.", 1), "of an unknown version"),
        (lambda c: c.replace(b"endianq\x02\x88", b"endianq\x02\x89", 1), "big-endian"),
        (
            lambda c: c[: -8 - 24] + (10**15).to_bytes(8, "little") + c[-24:],
            "1,000,000,000,000,000 values are announced",
        ),
        (lambda c: c.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9", 1), "v9"),
    ],
)
def test_a_damaged_checkpoint_of_before_1_6_is_refused(spoil, told, tmp_path):
    content = before_1_6({"w": torch.ones(2, 3)})
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    assert torch.equal(read_file(path).tensors["w"], torch.ones(2, 3))
    assert spoil(content) != content
    path.write_bytes(spoil(content))
    with pytest.raises(WeightsError, match=told):
        read_file(path)
