"""Spoiled .pth, .safetensors and ONNX files for ``mutation.run_mutations``, each with a judge.

What is read must be what the format's own library reads: a reader that is right about whole files
and wrong about damaged ones would be worse than one that refuses.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import random
import struct
import zipfile
from collections import defaultdict, deque
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hgnetv2_pipeline.weights.load import read_file
from spoiling import mutate, spoil

SHARING = 4  # times the file's size that its tensors may add up to


# --- .pth -----------------------------------------------------------------------------------------


@functools.cache
def checkpoints() -> list[bytes]:
    """Files of ``torch.save``: flat, inside a training program's checkpoint, views, half."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 2), torch.nn.BatchNorm2d(3))
    # As torch.optim keeps it, whose first step takes seconds of imports.
    moments = {
        number: {"step": torch.tensor(1.0), "exp_avg": torch.zeros_like(parameter)}
        for number, parameter in enumerate(network.parameters())
    }
    groups = [{"lr": 1e-3, "betas": (0.9, 0.999), "fused": None, "params": [*moments]}]
    optimiser = {"state": moments, "param_groups": groups}
    values = torch.arange(24.0)
    made: list[Any] = [
        network.state_dict(),
        {"model": network.state_dict(), "optimizer": optimiser, "epoch": 3},
        {"a": values.reshape(4, 6).t(), "b": values[2:9], "c": values, "d": torch.zeros(0, 2)},
        {"h": values.half(), "z": values.bfloat16(), "i": torch.arange(5), "f": values > 3},
        {"p": torch.nn.Parameter(values), "size": torch.Size([1, 2])},
    ]
    return [saved(value) for value in made]


@functools.cache
def checkpoints_with_objects() -> list[bytes]:
    """The same with what training programs save beside a network, for which objects stand in."""
    network = {"w": torch.arange(6.0).reshape(2, 3)}
    beside = {
        "args": argparse.Namespace(lr=0.1, out=Path("x")),
        "metric": np.float64(0.5),
        "names": np.array(["cat", "dog"]),
        "last": deque([1, 2]),
        "by": defaultdict(list, {"a": [1]}),
    }
    return [saved({"state_dict": network, **beside}), saved({"a": {"b": network}, "c": beside})]


def saved(value: Any, *, archive: bool = True) -> bytes:
    """What ``torch.save`` writes: an archive, or as before PyTorch 1.6."""
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=archive)
    return file.getvalue()


@functools.cache
def checkpoints_before_1_6() -> list[bytes]:
    """The same as PyTorch wrote them before 1.6: five pickles, then the storages."""
    return [
        saved(torch.load(io.BytesIO(content), weights_only=True), archive=False)
        for content in checkpoints()
    ]


def make_pth_before_1_6(rng: random.Random) -> tuple[bytes, Any]:
    source, other = rng.choice(checkpoints_before_1_6()), rng.choice(checkpoints_before_1_6())
    if rng.random() < 0.3:  # a count of values that lies
        at = rng.randrange(len(source) - 8)
        number = rng.choice([0, 1, 2, 6, 24, 255, 1 << 31, 1 << 62, (1 << 64) - 1])
        return source[:at] + number.to_bytes(8, "little") + source[at + 8 :], None
    return mutate(source, other, PIECES, rng), None


def unzipped(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: dict[str, bytes], compressed: str = "") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            kind = zipfile.ZIP_DEFLATED if name == compressed else zipfile.ZIP_STORED
            archive.writestr(name, content, kind)
    return file.getvalue()


PIECES = [
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_tensor_v3\n",
    b"ctorch._utils\n_rebuild_sparse_tensor\n", b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch\nFloatStorage\n", b"ctorch\nHalfStorage\n", b"ctorch\nComplexFloatStorage\n",
    b"cargparse\nNamespace\n", b"ccollections\ndeque\n", b"\x81", b"cnumpy\ndtype\n",
    b"ctorch.storage\nUntypedStorage\n", b"ctorch\nfloat8_e4m3fn\n", b"cposix\nsystem\n",
    b"Q", b"R", b"b", b"(", b"t", b"\x85", b"\x86", b"}", b"]", b")", b"u", b"s", b"N", b"0",
    b"K\x00", b"K\x01", b"K\xff", b"M\xff\xff", b"J\xff\xff\xff\x7f", b"J\xff\xff\xff\xff",
    b"\x8a\x05\x00\x00\x00\x00\x7f", b"h\x00", b"h\x05", b"q\x01",
]  # fmt: skip


def make_pth(rng: random.Random) -> tuple[bytes, Any]:
    sources = [*checkpoints(), *checkpoints_with_objects()]
    source, other = rng.choice(sources), rng.choice(sources)
    if rng.random() < 0.4:
        return mutate(source, other, PIECES, rng), None
    members = unzipped(source)
    name = next(name for name in members if name.endswith("/data.pkl"))
    strange = unzipped(other)
    match rng.randrange(6):
        case 0:
            chosen = rng.choice(list(members))
            members[chosen] = mutate(members[chosen] or b".", b"0123456789", PIECES, rng)
        case 1:
            del members[rng.choice(list(members))]
        case 2:
            members[f"{name.partition('/')[0]}/{rng.choice(['code/x.py', 'data/9', '', '/'])}"] = (
                b"1"
            )
        case 3:
            return zipped(members, compressed=rng.choice(list(members))), None
        case _:
            pickled = next(value for key, value in strange.items() if key.endswith("/data.pkl"))
            members[name] = mutate(members[name], pickled, PIECES, rng)
    return zipped(members), None


def check_pth(path: Path, _: Any) -> str:
    read = read_file(path).tensors
    total = sum(value.numel() * value.element_size() for value in read.values())
    assert total <= SHARING * path.stat().st_size
    try:
        theirs = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        return "read, and PyTorch refuses"
    for key in ("model", "state_dict"):
        theirs = theirs.get(key, theirs) if isinstance(theirs, dict) else theirs
    if set(theirs) == set(read):
        try:
            same(read, theirs)
        except AssertionError:
            # PyTorch looks at no checksum: with a byte changed in the archive's own tables it may
            # read from another place. Python's zipfile judges, which looks at them.
            assert_in_archive(path, read, theirs)
            return "read, and PyTorch misreads"
    return "read"


def assert_in_archive(
    path: Path, ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]
) -> None:
    """Where ours differ from PyTorch's, ours are the whole of a member, its checksum right."""
    contents = set(unzipped(path.read_bytes()).values())
    for key, value in ours.items():
        other = theirs[key]
        assert (value.shape, value.dtype) == (other.shape, other.dtype), key
        bits, others = (
            tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            for tensor in (value, other)
        )
        assert bits == others or (bits in contents and others not in contents), key


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Shapes, types and bits are alike (NaN is not equal to itself)."""
    for key, value in ours.items():
        other = theirs[key]
        assert (value.shape, value.dtype) == (other.shape, other.dtype), key
        bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (value, other)]
        assert torch.equal(*bits), key


# --- .safetensors ---------------------------------------------------------------------------------


@functools.cache
def safetensors() -> list[tuple[dict[str, Any], bytes]]:
    """(header, data) of whole files."""
    from safetensors.torch import save

    values = torch.arange(6.0)
    files = [
        save({"w": values.reshape(2, 3), "b": values.half()}, {"classes": '["a", "b"]'}),
        save({"x": torch.arange(3), "empty": torch.zeros(0, 4), "y": values.bfloat16()}),
    ]
    found = []
    for content in files:
        length = int.from_bytes(content[:8], "little")
        found.append((json.loads(content[8 : 8 + length]), content[8 + length :]))
    return found


def safetensors_file(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def make_safetensors(rng: random.Random) -> tuple[bytes, Any]:
    header, data = rng.choice(safetensors())
    whole = safetensors_file(header, data)
    match rng.randrange(5):
        case 0:
            return mutate(whole, whole, [b"{", b"[", b'"', b"\\u0000", b"9" * 30], rng), None
        case 1:
            text = json.dumps(header).encode()
            return safetensors_file(mutate(text, text, [b"{}", b"[]", b",", b"1"], rng), data), None
        case 2:
            text = json.dumps(header)[:-1] + ', "w": ' + json.dumps(header.get("w", 1)) + "}"
            return safetensors_file(text.encode(), data), None
        case 3:
            return safetensors_file(b"[" * rng.randrange(10**5), data), None
    return safetensors_file(spoil(header, rng), data), None


def check_safetensors(path: Path, _: Any) -> str:
    from safetensors.torch import load_file

    read = read_file(path)
    assert all(key.isprintable() for key in read.tensors)
    same(read.tensors, load_file(path))
    return "read"
