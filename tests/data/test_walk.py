"""One entry that cannot be looked up, opened or listed is named; what is beside it is read."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hgnetv2_pipeline.commands.survey import survey
from hgnetv2_pipeline.data.classmap import read_class_map
from hgnetv2_pipeline.data.lists.read import read_list
from hgnetv2_pipeline.data.scan import walk as walk_module
from hgnetv2_pipeline.data.scan.folders import scan_folder_tree, scan_list, scan_unlabelled
from hgnetv2_pipeline.deployment.inputs import expand_inputs
from hgnetv2_pipeline.errors import DataError
from image_files import blotches, encoded, put

GOOD = encoded(blotches(1), "PNG")
NAMES = [f"{number:02d}.png" for number in range(20)]


class Entry:
    """An entry of a folder that answers some question with an error, as a file system may."""

    def __init__(self, entry: os.DirEntry[str], question: str, code: int) -> None:
        self._entry, self._question, self._code = entry, question, code
        self.name, self.path = entry.name, entry.path

    def __getattr__(self, name: str) -> Any:
        if name == self._question:
            raise OSError(self._code, os.strerror(self._code), self.path)
        return getattr(self._entry, name)


def scandir(change: Callable[[os.DirEntry[str]], Any]) -> Callable[[Any], Any]:
    listed = os.scandir

    @contextmanager
    def changed(place: Any) -> Iterator[Iterator[Any]]:
        with listed(place) as entries:
            yield (change(entry) for entry in sorted(entries, key=lambda entry: entry.name))

    return changed


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("names", ["0a{}.png", "10b{}.png", "z{}", "z{}.tar"])
def test_l04_links_in_a_ring_are_named_and_the_rest_of_the_folder_is_read(tmp_path, length, names):
    root = put(tmp_path, {f"{top}/{name}": GOOD for top in "abc" for name in NAMES})
    ring = [names.format(number) for number in range(length)]
    for link, target in zip(ring, [*ring[1:], ring[0]], strict=True):
        (root / "b" / link).symlink_to(target)
    for scan in (scan_unlabelled(root, threads=1), scan_folder_tree(root, threads=1)):
        assert len(scan.samples) == 60
        assert list(scan.quarantined["key"]) == [f"b/{link}" for link in ring]
        assert scan.quarantined["reason"].str.contains("Too many levels").all()
        assert scan.ledger(1).summary() == {
            "n_listed": 60 + length, "n_used": 60, "n_quarantined": length, "n_refused": 0,
        }  # fmt: skip


@pytest.mark.parametrize("question", ["is_dir", "is_symlink", "is_file"])
@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENAMETOOLONG])
def test_an_entry_that_cannot_be_looked_up_is_named_alone(tmp_path, monkeypatch, question, code):
    root = put(tmp_path, {f"{top}/{name}": GOOD for top in "ab" for name in NAMES})

    def change(entry: os.DirEntry[str]) -> Any:
        return Entry(entry, question, code) if entry.name == NAMES[3] else entry

    monkeypatch.setattr(walk_module.os, "scandir", scandir(change))
    scan = scan_unlabelled(root, threads=1)
    assert len(scan.samples) == 38
    assert list(scan.quarantined["key"]) == [f"a/{NAMES[3]}", f"b/{NAMES[3]}"]
    assert scan.quarantined["reason"].str.contains(os.strerror(code), regex=False).all()


def test_a_folder_that_cannot_be_listed_to_its_end_gives_what_was_listed(tmp_path, monkeypatch):
    root = put(tmp_path, {f"{top}/{name}": GOOD for top in "ab" for name in NAMES})

    def change(entry: os.DirEntry[str]) -> Any:
        if entry.path.endswith(f"a/{NAMES[5]}"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return entry

    monkeypatch.setattr(walk_module.os, "scandir", scandir(change))
    scan = scan_unlabelled(root, threads=1)
    assert len(scan.samples) == 25
    assert scan.quarantined[["key", "reason"]].values.tolist() == [
        ["a", "the folder cannot be read after 5 entries: Input/output error"]
    ]


def test_what_predict_finds_in_a_folder_is_answered_or_named(tmp_path, monkeypatch):
    """L04, L16: rings, links to nowhere, pipes and a closed folder beside images."""
    root = put(tmp_path, {"a.png": GOOD, "deep/b.png": GOOD, "closed/c.png": GOOD, "n.txt": b"-"})
    (root / "ring.png").symlink_to("ring.png")
    (root / "gone.jpg").symlink_to("nowhere.jpg")
    (root / "gone.tar").symlink_to("nowhere.tar")
    os.mkfifo(root / "pipe.png")
    os.mkfifo(root / "pipe.tar")
    listed = os.scandir

    def closed(place: Any) -> Any:
        if Path(place).name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
        return listed(place)

    monkeypatch.setattr(os, "scandir", closed)
    found = {Path(one.name).name: one.source for one in expand_inputs(root)}
    assert sorted(found) == [
        "a.png", "b.png", "closed", "gone.jpg", "gone.tar", "pipe.png", "pipe.tar", "ring.png",
    ]  # fmt: skip
    assert "cannot be read: Permission denied" in found["closed"].reason
    assert "cannot be read: No such file" in found["gone.tar"].reason
    assert "not a regular file" in found["pipe.tar"].reason


@pytest.fixture
def alarm() -> Iterator[None]:
    """A read that waits for ever is a failure, not a hanging test."""

    def late(*_: object) -> None:
        raise TimeoutError("the reader waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


READERS: dict[str, Callable[[Path], object]] = {
    "a list": read_list,
    "a list of several labels": lambda path: read_list(path, multi_label=True),
    "a class map": read_class_map,
    "a list to predict": expand_inputs,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to(path), "Too many levels"),
        (lambda path: path.symlink_to("nowhere"), "is missing"),
    ],
)
@pytest.mark.usefixtures("alarm")
def test_l16_a_list_that_is_no_file_is_refused_at_once(tmp_path, reader, make, said):
    path = tmp_path / "list.txt"
    make(path)
    with pytest.raises(DataError, match=f"list.txt: the (list|class map) .*{said}") as told:
        READERS[reader](path)
    assert "\n" not in str(told.value)


def test_a_listed_member_of_a_damaged_archive_is_refused_with_the_reason(tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in NAMES[:3]:
            (tmp_path / name).write_bytes(GOOD)
            tar.add(tmp_path / name, name)
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[content.index(NAMES[1].encode())] ^= 1
    (tmp_path / "a.tar").write_bytes(content)
    path = tmp_path / "list.txt"
    path.write_text(f"a.tar!{NAMES[0]} 0\na.tar!{NAMES[2]} 1\n")
    assert len(scan_list(path, tmp_path, threads=1).samples) == 2
    path.write_text(f"a.tar!{NAMES[0]} 0\na.tar!{NAMES[1]} 1\n")
    with pytest.raises(DataError, match="list.txt:2: 1 of 2 .* no such member, but is damaged"):
        scan_list(path, tmp_path, threads=1)


IHDR = b"\x89PNG\r\n\x1a\n\0\0\0\1IHDR\0"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        IHDR,
        IHDR[:9],
        GOOD[:20],
        GOOD[:40],
        b"BM",
        b"GIF89a",
        b"II*\0\xff\xff\xff\xff",
        b"RIFF",
    ],
)
def test_init_looks_past_a_labelled_file_that_does_not_open(tmp_path, content):
    files = {f"labelled/{top}/{name}": GOOD for top in "ab" for name in NAMES[1:5]}
    root = put(tmp_path, files | {f"labelled/a/{NAMES[0]}": content, "pool/x.png": GOOD})
    (root / "pool" / "gone.tar").symlink_to("nowhere")
    found = survey(root / "labelled", root / "pool")
    assert found.short_side == 40 and found.per_class == {"a": 5, "b": 4}


def test_init_says_when_no_labelled_file_opens(tmp_path):
    root = put(tmp_path, {f"{top}/{name}": IHDR for top in "ab" for name in NAMES[:2]})
    with pytest.raises(DataError, match="none of 4 labelled images looked at can be opened"):
        survey(root, None)
