"""State files that are damaged or another's, and processes that are killed at any step."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifest_mutations import check_manifest, make_manifest

from hgnetv2_pipeline import ownership
from hgnetv2_pipeline.durable import read_json, sha256_file, sha256_json
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.project.contents import ContentHashes
from hgnetv2_pipeline.project.results import Result, ResultSpec, Reuse, Work
from mutation import run_mutations

Json = Any
FILES = ("out.txt", "sheets")


class Oven:
    """Makes a file and a folder with a file, as a result of its own or a named one."""

    def __init__(self, project: Path, name: str = "") -> None:
        self.project, self.name = project, name
        self.folder = project / "data" / "08" / "run"
        self.manifest = self.folder / (f"{name}.manifest.json" if name else "manifest.json")

    def make(self, text: str, heat: int = 1, fail: Callable[[], None] = lambda: None) -> Result:
        def make(aside: Path) -> None:
            (aside / "out.txt").write_text(text)
            (aside / "sheets").mkdir()
            (aside / "sheets" / "top.txt").write_text(text)
            (aside / "unpromised.txt").write_text("x")
            fail()

        return Reuse(self.project).produce(self.spec(heat, name=self.name), make)

    def begin(self, heat: int = 1) -> Result | Work:
        return Reuse(self.project).begin(self.spec(heat, resumable=True))

    def spec(self, heat: int, **how: Any) -> ResultSpec:
        return ResultSpec(
            folder=self.folder, pipeline="baking", inputs={"flour": "wheat"},
            params={"heat": heat}, outputs=FILES, **how,
        )  # fmt: skip

    def texts(self) -> set[str]:
        """What is in any file called out.txt, in its place or in an archive."""
        return {path.read_text() for path in self.project.rglob("out.txt")}

    def left(self) -> list[str]:
        """What is there that is no result: locks, temporary files, partial folders."""
        return [
            path.name
            for path in self.project.rglob(".*")
            if path.name.startswith(".") and not path.name.startswith(".hashes.sqlite")
        ]


def _outputs(change: Callable[[dict[str, Json]], object]) -> Callable[[str], str]:
    def act(text: str) -> str:
        values = json.loads(text)
        change(values)
        return json.dumps(values)

    return act


HASH = "0" * 64
DAMAGE: dict[str, Callable[[str], str | bytes]] = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "a list": lambda text: "[]",
    "an empty object": lambda text: "{}",
    "null": lambda text: "null",
    "binary": lambda text: b"\x00\x01\xff\xfe",
    "too deep": lambda text: "[" * 200_000,
    "no fingerprint": _outputs(lambda v: v.pop("fingerprint")),
    "a fingerprint with slashes": _outputs(lambda v: v.update(fingerprint="../../..")),
    "a fingerprint that is a number": _outputs(lambda v: v.update(fingerprint=7)),
    "no outputs": _outputs(lambda v: v.pop("outputs")),
    "outputs that are a list": _outputs(lambda v: v.update(outputs=["out.txt"])),
    "hashes that are none": _outputs(lambda v: v["outputs"].update({"out.txt": "00"})),
    "params that are a list": _outputs(lambda v: v.update(params=[])),
    "inputs that are text": _outputs(lambda v: v.update(inputs="wheat")),
    "another program's": lambda text: json.dumps({"name": "app", "version": 3}),
    **{
        f"an output {name[:12]!r}": _outputs(
            lambda v, name=name: v["outputs"].update({name: HASH})  # type: ignore[misc]
        )
        for name in (
            "../../victim.txt", "/etc/hostname", "..", ".", "", "sheets/../../../victim.txt",
            "archive/x", "a\0b", "x" * 300, "link/victim.txt", "\ud800", "./out.txt",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ["", "val"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_manifest_is_named_set_aside_and_the_result_made_again(
    tmp_path: Path, damage: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    oven = Oven(tmp_path, name)
    oven.make("old")
    (tmp_path / "victim.txt").write_text("victim")
    (tmp_path / "data" / "victim.txt").write_text("victim")
    (oven.folder / "link").symlink_to(tmp_path)
    content = DAMAGE[damage](oven.manifest.read_text())
    if isinstance(content, bytes):
        oven.manifest.write_bytes(content)
    else:
        oven.manifest.write_text(content)
    with caplog.at_level(logging.WARNING):
        assert not oven.make("new").reused
    assert f"{oven.manifest.name} is damaged: " in caplog.text
    assert (oven.folder / "out.txt").read_text() == "new"
    assert oven.texts() == {"old", "new"}, "nothing finished is lost"
    assert (tmp_path / "victim.txt").read_text() == "victim"
    assert (tmp_path / "data" / "victim.txt").read_text() == "victim"
    assert oven.make("never").reused
    assert oven.left() == []


@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_any_change_of_a_manifest_ends_in_a_whole_result(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    oven = Oven(tmp_path_factory.mktemp("oven"), data.draw(st.sampled_from(["", "val"])))
    oven.make("old")
    raw = bytearray(oven.manifest.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
    if kind == "flip":
        raw[at] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del raw[at : at + data.draw(st.integers(1, 80))]
    else:
        raw[at:at] = data.draw(st.binary(min_size=1, max_size=20))
    oven.manifest.write_bytes(bytes(raw))
    outcome = oven.make("new")
    assert (oven.folder / "out.txt").read_text() == ("old" if outcome.reused else "new")
    assert "old" in oven.texts()
    assert oven.make("never").reused


@pytest.mark.parametrize("name", ["", "val"])
def test_outputs_without_a_manifest_are_archived_and_not_replaced(
    tmp_path: Path, name: str
) -> None:
    oven = Oven(tmp_path, name)
    oven.make("precious")
    oven.manifest.unlink()
    (oven.folder / "sheets" / "more.txt").write_text("precious too")
    oven.make("new")
    assert oven.texts() == {"precious", "new"}
    assert len(list(tmp_path.rglob("more.txt"))) == 1
    assert [path.name for path in (oven.folder / "sheets").iterdir()] == ["top.txt"]


def test_unfinished_work_without_a_manifest_is_archived_by_the_other_way_too(
    tmp_path: Path,
) -> None:
    oven = Oven(tmp_path)
    oven.make("precious")
    oven.manifest.unlink()
    assert isinstance(oven.begin(), Work)
    assert oven.texts() == {"precious"}
    assert not (oven.folder / "out.txt").exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "a list", "an empty object", "binary"])
@pytest.mark.parametrize("file", ["made_by.json", "in_progress.json"])
def test_other_state_files_that_are_damaged_lose_nothing(
    tmp_path: Path, file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    oven = Oven(tmp_path)
    if file == "made_by.json":
        oven.make("old")
    else:
        assert isinstance(oven.begin(), Work)
        (oven.folder / "out.txt").write_text("old")
    content = DAMAGE[damage]((oven.folder / file).read_text())
    (oven.folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with caplog.at_level(logging.WARNING):
        found = oven.make("never") if file == "made_by.json" else oven.begin()
    assert isinstance(found, Result) is (file == "made_by.json")
    assert oven.texts() == {"old"}
    assert isinstance(read_json(oven.folder / file), dict)
    if damage != "an empty object" or file != "made_by.json":
        assert f"{file} is damaged" in caplog.text


SHARD_DAMAGE = ["cut", "empty", "a list", "an empty object", "null", "binary"]


@pytest.mark.parametrize("damage", [*SHARD_DAMAGE, *("identity", "sha256", "quarantined")])
@pytest.mark.parametrize("room", ["scores", "teacher logits", "resized"])
def test_a_shard_whose_manifest_is_damaged_is_made_again(
    tmp_path: Path, room: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    from hgnetv2_pipeline.data.resized import copy_shards, write_files
    from hgnetv2_pipeline.input import teacher_logits
    from hgnetv2_pipeline.mining.score_shards import score_store, write_scores

    who, parts = "who", {}
    if room == "scores":
        store = score_store(tmp_path)
        write_scores(
            tmp_path, 0,
            {"key": ["a"], "top_ids": [[0]], "top_logits": [[0.5]], "lse": [0.5], "score_q": [1],
             "phash64": [1], "bytes_sha256": ["x"]},
            {"identity": {}, "number": 0, "listed": 1, "rows": 1, "quarantined": []},
        )  # fmt: skip
        who = sha256_json({})
        parts = {"identity": "identity_sha256", "sha256": "parquet_sha256"}
    elif room == "teacher logits":
        store = teacher_logits.logit_shards(tmp_path)
        records = np.zeros((1, 1), teacher_logits.record_dtype(2, 1))
        teacher_logits.write_records(tmp_path, 0, records, who, [])
    else:
        store = copy_shards(tmp_path)
        write_files(tmp_path, 0, who, iter([b"x"]))
        parts = {"sha256": "lengths", "quarantined": "offsets"}
    manifest = store.manifest_path(0)

    def found() -> object:
        return store.finished(0, who)

    assert found() is not None
    if damage in SHARD_DAMAGE:
        content = DAMAGE[damage](manifest.read_text())
    else:
        values = read_json(manifest)
        del values[parts.get(damage, damage)]
        content = json.dumps(values)
    manifest.write_bytes(content if isinstance(content, bytes) else content.encode())
    with caplog.at_level(logging.WARNING):
        assert found() is None
    assert "damaged" in caplog.text


def test_a_folder_whose_manifest_is_damaged_is_no_input(tmp_path: Path) -> None:
    oven = Oven(tmp_path)
    oven.make("old")
    oven.manifest.write_text("{")
    with pytest.raises(DataError, match=r"run is needed: manifest.json is damaged: it is no JSON"):
        Reuse(tmp_path).digest(oven.folder)


def test_outputs_are_hashed_as_they_are_whatever_was_remembered_of_them(tmp_path: Path) -> None:
    """Both ways of finishing a result: a remembered hash says nothing of what was just written."""
    for name in ("made", "begun"):
        oven = Oven(tmp_path / name)
        database = tmp_path / name / "data" / ".hashes.sqlite"

        def lie(folder: Path, database: Path = database) -> None:
            """As if these very files had had another content."""
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            ContentHashes(database).note(files, ["f" * 64] * len(files))

        if name == "made":
            oven.make("x", fail=lambda oven=oven, lie=lie: lie(_partial(oven)))  # type: ignore[misc]
        else:
            work = oven.begin()
            assert isinstance(work, Work)
            (work.folder / "out.txt").write_text("x")
            (work.folder / "sheets").mkdir()
            (work.folder / "sheets" / "top.txt").write_text("x")
            lie(work.folder)
            work.finish()
        told = read_json(oven.manifest)["outputs"]
        assert told == {
            file: sha256_file(oven.folder / file) for file in ("out.txt", "sheets/top.txt")
        }


def _partial(oven: Oven) -> Path:
    (found,) = ownership.partial_folders(oven.folder)
    return found


def test_a_moved_result_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oven = Oven(tmp_path)
    oven.make("x")

    def never(path: Path) -> str:
        raise AssertionError(f"{path} was hashed already")

    monkeypatch.setattr("hgnetv2_pipeline.project.contents.sha256_file", never)
    assert oven.make("never").reused


# Remembered hashes.


def test_another_file_of_the_same_size_and_time_in_its_place_is_read(tmp_path: Path) -> None:
    hashes, path = ContentHashes(tmp_path / "h.sqlite"), tmp_path / "weights"
    told = []
    for content in (b"a" * 1000, b"b" * 1000):
        aside = tmp_path / "aside"
        aside.write_bytes(content)
        os.utime(aside, (1, 1))
        aside.rename(path)
        told.append(hashes.file(path))
    assert told[0] != told[1]
    # In its place, with its inode and the time of its last change put back.
    path.write_bytes(b"c" * 1000)
    os.utime(path, (1, 1))
    assert hashes.file(path) not in told


@pytest.mark.parametrize(
    "damage", ["no database", "cut", "another's table", "no hash", "an older version's"]
)
def test_a_damaged_hash_database_is_set_aside_and_files_are_read_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    database, files = tmp_path / "h.sqlite", [tmp_path / f"file{n}" for n in range(200)]
    for file in files:
        file.write_text(file.name)
    right = ContentHashes(database).files(files)
    if damage == "no database":
        database.write_bytes(b"no database at all" * 500)
    elif damage == "cut":
        database.write_bytes(database.read_bytes()[: database.stat().st_size // 2])
    else:
        with closing(sqlite3.connect(database)) as connection, connection:
            if damage == "no hash":
                connection.execute("update contents set sha256 = 7")
            else:
                connection.execute("drop table contents")
                name = "contents" if damage == "another's table" else "hashes"
                connection.execute(f"create table {name} (path text, size integer)")
    with caplog.at_level(logging.WARNING):
        assert ContentHashes(database).files(files) == right
    named = f"{database} is damaged" in caplog.text
    assert named is (damage in ("no database", "cut", "another's table"))
    assert (tmp_path / "h.sqlite.damaged").is_file() is named


# Killed at any step.

STEPS = ("rename", "replace", "mkdir", "unlink", "open")


def killed_at(number: int, act: Callable[[], object]) -> bool:
    """Run ``act`` in a process that dies, without a word, at its step ``number``."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    count = 0

    def counted(step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                os._exit(9)
            return step(*arguments, **named)

        return run

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    try:
        act()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_spoiled_manifest_costs_no_result(count: int) -> None:
    report = run_mutations(
        make_manifest, count=count, seed=count, check=check_manifest, name="manifest.json"
    )
    assert not report.faults, report
    assert report.verdicts["made again"] > count / 2
    assert report.verdicts["reused"] > count / 100


EVERY = [4, pytest.param(1, marks=pytest.mark.slow)]


# Row C10 of docs/reliability.md.
@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize(("name", "same"), [("", True), ("val", False)])
def test_whatever_step_a_process_is_killed_at_the_next_finishes_and_nothing_is_left(
    tmp_path: Path, name: str, same: bool, every: int
) -> None:
    number = 1 - every
    while True:
        number += every
        oven = Oven(tmp_path / str(number), name)
        oven.make("first", heat=1)
        if not killed_at(number, lambda oven=oven: oven.make("second", heat=2)):  # type: ignore[misc]
            break
        heat = 2 if same else 3
        oven.make("third", heat=heat)
        made = (oven.folder / "out.txt").read_text()
        assert made == "third" or (same and made == "second")
        assert read_json(oven.manifest)["outputs"]["out.txt"] == sha256_file(
            oven.folder / "out.txt"
        )
        assert "first" in oven.texts()
        assert oven.make("never", heat=heat).reused
        assert oven.left() == [], number
        assert not list(oven.project.rglob("unpromised.txt"))
    assert number > 15


@pytest.mark.parametrize("every", EVERY)
def test_unfinished_work_that_is_killed_at_any_step_goes_on(tmp_path: Path, every: int) -> None:
    def work(oven: Oven) -> None:
        found = oven.begin()
        if isinstance(found, Work):
            from hgnetv2_pipeline.durable import write_text

            for file in ("out.txt", "sheets/top.txt"):
                write_text(found.folder / file, "x")
            found.finish()

    number = 1 - every
    while True:
        number += every
        oven = Oven(tmp_path / str(number))
        if not killed_at(number, lambda oven=oven: work(oven)):  # type: ignore[misc]
            break
        work(oven)
        assert isinstance(oven.begin(), Result)
        assert oven.left() == [], number
        assert not list(oven.project.rglob("archive"))
        assert sorted(path.name for path in oven.folder.iterdir()) == [
            "made_by.json", "manifest.json", "out.txt", "sheets",
        ]  # fmt: skip
    assert number > 15
