"""Hostile weight files: each is refused by name and at once, and nothing in it ever runs."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import hostile_pickles
import numpy as np
import pytest
from hostile_pickles import Call, array, attacks, of, text

import hgnetv2_pipeline
from hang_guard import HANG, ends
from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.weights.paddle import pdparams
from hgnetv2_pipeline.weights.paddle.pdparams import read_object, read_pdparams

NAMES = list(attacks(Path("marker")))


@pytest.fixture(scope="module")
def marker(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "ran"


@pytest.fixture(scope="module")
def files(marker) -> dict[str, bytes]:
    return attacks(marker)


# Row W01 of docs/reliability.md.
@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_file_is_refused_and_nothing_of_it_runs(name, files, marker, tmp_path):
    path = tmp_path / "w.pdparams"
    path.write_bytes(files[name])
    with pytest.raises(WeightsError) as caught:
        read_pdparams(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()
    assert not marker.exists()


def test_the_marker_would_be_there_if_a_file_were_run(tmp_path):
    for protocol in (2, 3, 4):
        own = tmp_path / f"ran{protocol}"
        data = attacks(own)[f"os.system, protocol {protocol}"]
        pickle.loads(data)  # noqa: S301 - what the reader must never do
        assert own.exists()


def in_a_process_of_its_own(folder: Path, *words: object) -> dict[str, float]:
    """Runs ``hostile_pickles`` as a script, under its limit of half a gigabyte."""
    source = Path(hgnetv2_pipeline.__file__).parents[1]
    path = os.pathsep.join((str(source), str(Path(__file__).parents[1])))
    done = subprocess.run(
        [sys.executable, hostile_pickles.__file__, str(folder), *map(str, words)],
        env=os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_no_hostile_file_takes_more_work_or_memory_than_a_large_honest_one(tmp_path):
    found = in_a_process_of_its_own(tmp_path, "corpus")
    assert found["read"] + found["refused"] == len(NAMES)
    # The reader's own limit is 500,000 opcodes; 20 calls to each is ample (14 were counted).
    assert 1_000_000 < found["most_calls"] < 10_000_000
    assert not found["ran"]


# Row W02 of docs/reliability.md.
@pytest.mark.parametrize(
    ("count", "seed"), [(20_000, 7), pytest.param(200_000, 8, marks=pytest.mark.slow)]
)
def test_a_mutated_file_is_read_or_refused_and_nothing_else(count, seed, tmp_path):
    """Whatever else is raised, want of memory too, ends the process with an error."""
    found = in_a_process_of_its_own(tmp_path, "mutations", count, seed)
    assert found["read"] + found["refused"] == count
    assert found["refused"] > count / 2
    assert found["read"] > count / 50  # else the changes would be too coarse to reach far
    assert not found["ran"]


# --- each for its own reason ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("laughs by lists", "more than 100,000 values"),
        ("laughs by tuples", "more than 100,000 values"),
        ("laughs by dicts", "more than 100,000 values"),
        ("laughs by arrays", "too many names"),
        ("a list within itself", "nested deeper"),
        ("one tensor under many names", "same tensor under too many names"),
        ("one text encoded many times", "more bytes decoded than the file holds"),
        ("names that multiply", "a dict key of 1,000,000 characters"),
        ("names that nest", "nests its names to over 512"),
        ("a million opcodes", "more than 500,000 opcodes"),
        ("a shape too large", r"8 bytes for a f4 tensor of shape \[255\]"),
        ("a second pickle behind", "bytes follow the end"),
        ("INST", "opcode INST at byte"),
        ("NEXT_BUFFER", "protocol 2, 3 or 4"),
        ("parts of big tensors", "over 4 GB"),
        ("bytes of 2**62", "announced and not there"),
        ("a frame in a frame", "a frame of 0 bytes"),
        ("memo written twice", "memo entry 0 is written where 1 is due"),
        ("a memoised symbol, built", "state is set on something that takes none"),
        ("a key twice by nesting", r"holds a\.b twice"),
        ("tensors hidden in the table of names", "not a table of names"),
        ("a key that turns the text", r"control characters: w\\u202ecod"),
        ("STACK_GLOBAL 'numpy' 'dt\\u0443pe'", r"asks for numpy\.dt\\u0443pe"),
        ("a web page", "web page"),
        ("a torch zip", "zip archive"),
        ("a torch file of old", "PyTorch file of before"),
        ("gzip", "compressed"),
        ("a tar", "tar archive"),
        ("safetensors", "looks like safetensors"),
        ("a Git LFS pointer", "Git LFS pointer"),
        ("nothing", "is empty"),
    ],
)
def test_an_attack_is_refused_for_its_own_reason(name, reason, files, tmp_path):
    path = tmp_path / "w.pdparams"
    path.write_bytes(files[name])
    with pytest.raises(WeightsError, match=reason):
        read_pdparams(path)


# Row W03 of docs/reliability.md.
def test_a_refusal_names_the_global_and_says_what_to_do(tmp_path):
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps({"w": Call(eval, "1")}, 2))
    with pytest.raises(WeightsError, match=r"asks for __builtin__\.eval.*state_dict"):
        read_pdparams(path)


def test_the_frame_around_the_attacks_is_itself_a_good_file(tmp_path):
    """What the corpus is built from would be read, so that it is the attack that is refused."""
    path = tmp_path / "w.pdparams"
    path.write_bytes(of(array()))
    np.testing.assert_array_equal(read_pdparams(path)["w"], np.zeros(2, np.float32))
    path.write_bytes(of(b"](" + b"N" * 99_000 + b"e"))
    assert len(read_object(path)["w"]) == 99_000
    path.write_bytes(b"\x80\x04}(" + text("a") + array() + b"q\x00" + text("b") + b"h\x00u.")
    shared = read_pdparams(path)
    assert shared["a"] is shared["b"]  # tied weights of a nested dict


# --- what stands under the name -------------------------------------------------------------------


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def a_link_to_nowhere(path: Path) -> None:
    path.symlink_to(path.with_name("absent"))


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def nothing_at_all(path: Path) -> None:
    assert not path.exists()


# Row W04 of docs/reliability.md.
@pytest.mark.parametrize(
    "make",
    [a_folder, a_pipe, a_link_to_itself, a_link_to_nowhere, a_device, nothing_at_all],
)
def test_what_is_no_file_is_refused_without_waiting(make, tmp_path):
    path = tmp_path / "w.pdparams"
    make(path)
    refused = pytest.raises(WeightsError, match="there is no weight file at .*w.pdparams")
    with ends("the reader of what is no file"), refused:
        read_pdparams(path)


@pytest.mark.parametrize("start", [b"", b"\x80\x04}\x8e" + (2**40).to_bytes(8, "little")])
def test_a_sparse_file_of_terabytes_is_refused_by_its_size(start, tmp_path):
    path = tmp_path / "w.pdparams"
    with path.open("wb") as file:
        file.write(start)
        file.truncate(2**41)
    with pytest.raises(WeightsError, match="2,199,023,255,552 bytes long"):
        read_pdparams(path)


def test_a_path_the_system_refuses_is_a_refusal_too(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read: File name too long"):
        read_pdparams(tmp_path / ("w" * 300))


def test_a_file_cut_short_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "w.pdparams"
    path.write_bytes(of(array(shape=b"M\x00\x40\x85", data=b"B\x00\x00\x01\x00" + bytes(65536))))
    interpret = pdparams.interpret

    def cut_first(stream, size):
        os.truncate(path, 200)
        return interpret(stream, size)

    monkeypatch.setattr(pdparams, "interpret", cut_first)
    with pytest.raises(WeightsError, match="cut short"):
        read_pdparams(path)


def test_a_file_for_which_memory_is_short_is_refused(tmp_path, monkeypatch):
    def no_memory(stream, size):
        raise MemoryError

    path = tmp_path / "w.pdparams"
    path.write_bytes(of(array()))
    monkeypatch.setattr(pdparams, "interpret", no_memory)
    with pytest.raises(WeightsError, match="too much for the memory here"):
        read_pdparams(path)
