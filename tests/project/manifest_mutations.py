"""Spoiled manifests of a finished result, and what is made of them."""

from __future__ import annotations

import atexit
import json
import os
import random
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from hgnetv2_pipeline.project.results import Result, ResultSpec, Reuse
from spoiling import mutate, spoil

OLD = {"out.txt": b"old", "sheets/top.txt": b"old sheet"}
PIECES = [
    b"{}", b"[]", b"null", b"..", b"/", b"../../victim.txt", b"\\u0000", b"\\ud800", b'"', b",",
    b"1e400", b"9" * 30, b"NaN", b"\xff", b"true", b"0" * 64, b"sheets/../../../victim.txt",
]  # fmt: skip


def produce(project: Path, text: str) -> Result:
    def make(aside: Path) -> None:
        (aside / "sheets").mkdir()
        (aside / "out.txt").write_text(text)
        (aside / "sheets" / "top.txt").write_text(f"{text} sheet")

    spec = ResultSpec(
        folder=project / "data" / "run", pipeline="baking", inputs={"flour": "wheat"},
        params={"heat": {"top": 1, "bottom": [2, 3]}}, outputs=("out.txt", "sheets"),
    )  # fmt: skip
    return Reuse(project).produce(spec, make)


@cache
def whole() -> bytes:
    """The manifest of the result when nothing is wrong with it."""
    with TemporaryDirectory() as folder:
        produce(Path(folder), "old")
        return (Path(folder) / "data" / "run" / "manifest.json").read_bytes()


def make_manifest(rng: random.Random) -> tuple[bytes, None]:
    if rng.random() < 0.5:
        return json.dumps(spoil(json.loads(whole()), rng)).encode(), None
    return mutate(whole(), whole(), PIECES, rng), None


@cache
def project_folder() -> Path:
    """One of this process, in memory where there is room for files: thousands are made."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of its own in it
    folder = TemporaryDirectory(prefix="manifests-", dir=memory if memory.is_dir() else None)
    atexit.register(folder.cleanup)
    os.fsync = lambda _handle: None  # type: ignore[assignment]
    return Path(folder.name)


def check_manifest(path: Path, _: None) -> str:
    """Make the result over a folder whose manifest is ``path``; nothing of the old one is lost."""
    project = project_folder()
    run = project / "data" / "run"
    for old in (run, project / "data" / "archive"):
        shutil.rmtree(old, ignore_errors=True)
    for name, content in OLD.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(content)
    victims = [project / "victim.txt", project / "data" / "victim.txt"]
    for victim in victims:
        victim.write_bytes(b"victim")
    shutil.copyfile(path, run / "manifest.json")
    result = produce(project, "new")
    assert all(victim.read_bytes() == b"victim" for victim in victims), "a file outside was moved"
    there = [file.read_bytes() for file in project.rglob("*") if file.is_file()]
    for name, content in OLD.items():
        assert content in there, f"the old {name} is lost"
    text = b"old" if result.reused else b"new"
    assert (run / "out.txt").read_bytes() == text
    assert (run / "sheets" / "top.txt").read_bytes() == text + b" sheet"
    written = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert written["fingerprint"] == json.loads(whole())["fingerprint"] == result.fingerprint
    assert not [file for file in project.rglob(".*") if ".hashes" not in file.name]
    return "reused" if result.reused else "made again"
