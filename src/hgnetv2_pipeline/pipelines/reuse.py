"""The one place that decides whether a finished result still stands.

A result is a set of files in a folder with a manifest: SHA-256 of what went in (contents and
validated parameters) and of what came out. Same manifest, outputs intact: it is reused and nothing
is written. Anything else: the old files move to ``archive/<fingerprint8>/`` and the work is done
anew. Nothing finished is ever overwritten or deleted. A change of code alone only warns.
"""

from __future__ import annotations

import glob
import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from hgnetv2_pipeline.durable import (
    fsync_directory,
    read_json,
    sha256_file,
    sha256_json,
    write_json,
)
from hgnetv2_pipeline.errors import DataError

_log = logging.getLogger(__name__)
_FORMAT = "hgnetv2_pipeline/manifest/1"
_CLAIM = "in_progress.json"


@dataclass(frozen=True)
class Result:
    """A finished result: its folder, and whether it stood already."""

    folder: Path
    reused: bool
    fingerprint: str


class ContentHashes:
    """SHA-256 of files, remembered by size and modification time, as DVC and git do it.

    A touched file is read again and found unchanged; a flipped byte is found because writing it
    touches the file. Corruption that leaves the time alone needs ``fresh=True``.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        database.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._connect()) as connection, connection:
            connection.execute(
                "create table if not exists hashes "
                "(path text primary key, size integer, mtime_ns integer, sha256 text)"
            )

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._database, timeout=60)

    def file(self, path: Path, *, fresh: bool = False) -> str:
        """SHA-256 of one file."""
        return self.files([path], fresh=fresh)[0]

    def files(self, paths: Sequence[Path], *, fresh: bool = False) -> list[str]:
        """SHA-256 of many files, in order."""
        hashes: list[str] = []
        changed: list[tuple[str, int, int, str]] = []
        with closing(self._connect()) as connection:
            for path in paths:
                status = path.stat()
                row = connection.execute(
                    "select size, mtime_ns, sha256 from hashes where path = ?", (str(path),)
                ).fetchone()
                if row and not fresh and row[:2] == (status.st_size, status.st_mtime_ns):
                    hashes.append(row[2])
                    continue
                digest = sha256_file(path)
                hashes.append(digest)
                changed.append((str(path), status.st_size, status.st_mtime_ns, digest))
            if changed:
                with connection:
                    connection.executemany(
                        "insert or replace into hashes values (?, ?, ?, ?)", changed
                    )
        return hashes

    def tree(self, folder: Path) -> str:
        """SHA-256 over all files below ``folder``: their relative names and contents."""
        # os.walk rather than rglob: it follows symlinked folders (DVC makes them) and is faster.
        names: list[str] = []
        for where, folders, files in os.walk(folder, followlinks=True):
            folders[:] = [name for name in folders if not _leads_up(Path(where) / name)]
            base = Path(where).relative_to(folder)
            names += [(base / name).as_posix() for name in files if not name.startswith(".")]
        names.sort()
        hashes = self.of_any_kind([folder / name for name in names])
        return sha256_json(list(zip(names, hashes, strict=True)))

    def of_any_kind(self, paths: Sequence[Path]) -> list[str]:
        """As ``files``, with words for what is missing or no regular file (a pipe would block)."""
        hashes = ["no regular file" if path.exists() else "missing" for path in paths]
        regular = [place for place, path in enumerate(paths) if path.is_file()]
        for place, digest in zip(
            regular, self.files([paths[place] for place in regular]), strict=True
        ):
            hashes[place] = digest
        return hashes


class Reuse:
    """Makes results, or finds that they stand, for one project.

    Args:
        project: folder that holds ``data/``; remembered hashes are kept in ``data/.hashes.sqlite``.
        redo: names of pipelines whose results are made anew whatever the manifest says.
        dry: only find out: ``begin`` moves and marks nothing (for a plan).
    """

    def __init__(self, project: Path, redo: Iterable[str] = (), *, dry: bool = False) -> None:
        self._dry = dry
        self._project = project
        self._redo = frozenset(redo)
        self._hashes = ContentHashes(project / "data" / ".hashes.sqlite")

    def digest(self, value: Path | str) -> str:
        """Content hash of a file, of a folder (by its manifest where it has one), or of a text."""
        if isinstance(value, str):
            return sha256_json(value)
        if value.is_dir():
            manifest = value / "manifest.json"
            if manifest.is_file():
                return sha256_json(read_json(manifest)["outputs"])
            return self._hashes.tree(value)
        if not value.exists():
            raise DataError(f"{value} is needed and does not exist")
        return self._hashes.file(value)

    def contents(self, paths: Sequence[Path]) -> str:
        """One hash of the contents of some files, those that are missing included."""
        return sha256_json(self._hashes.of_any_kind(paths))

    def produce(
        self,
        folder: Path,
        *,
        pipeline: str,
        inputs: Mapping[str, Path | str],
        params: BaseModel | Mapping[str, Any],
        outputs: Sequence[str],
        make: Callable[[Path], object],
        name: str = "",
    ) -> Result:
        """Return the result in ``folder``, making it with ``make(aside)`` unless it stands.

        ``make`` writes into an empty folder aside, whose files are renamed into place when all of
        them are whole. The other arguments are those of ``begin``.
        """
        work, clear = self._look(folder, pipeline, inputs, params, outputs, name)
        if isinstance(work, Result):
            return work
        # Made first, cleared then: what fails leaves the earlier result where it was.
        _make_aside(folder, outputs, make, clear)
        return work.finish()

    def begin(
        self,
        folder: Path,
        *,
        pipeline: str,
        inputs: Mapping[str, Path | str],
        params: BaseModel | Mapping[str, Any],
        outputs: Sequence[str],
        name: str = "",
        resumable: bool = False,
        adopt: bool | None = None,
    ) -> Result | Work:
        """Find the result in ``folder``, or clear the way for making it.

        Args:
            folder: where the result lies; the names in ``outputs`` are relative to it and may be
                folders.
            pipeline: who makes it, for messages and ``redo``.
            inputs: files, folders or texts that went in, by role.
            params: what else decides the outcome.
            name: set where several results share a folder: its manifest is
                ``<name>.manifest.json`` instead of ``manifest.json``.
            resumable: what an interrupted earlier call with the same fingerprint left in
                ``folder`` stays there, to go on from; that of another recipe is archived.
            adopt: whether unfinished work of another recipe is gone on with all the same
                (``resume=force``); None: this kind of work cannot be.

        Returns:
            The finished ``Result``, or ``Work``: write the outputs, then call its ``finish``.
        """
        work, clear = self._look(folder, pipeline, inputs, params, outputs, name)
        if isinstance(work, Work) and not self._dry:
            clear()
            if resumable:
                self._claim(folder, work.record, outputs, self._title(folder, name), adopt)
        return work

    def _look(
        self,
        folder: Path,
        pipeline: str,
        inputs: Mapping[str, Path | str],
        params: BaseModel | Mapping[str, Any],
        outputs: Sequence[str],
        name: str,
    ) -> tuple[Result | Work, Callable[[], None]]:
        """The finished result, or the work to do; and what moves an older result out of its way."""
        if not self._dry:
            folder.mkdir(parents=True, exist_ok=True)
        manifest = folder / (f"{name}.manifest.json" if name else "manifest.json")
        values = params.model_dump(mode="json") if isinstance(params, BaseModel) else dict(params)
        record: dict[str, Any] = {
            "format": _FORMAT,
            "pipeline": pipeline,
            "inputs": {role: self.digest(value) for role, value in sorted(inputs.items())},
            "params": values,
        }
        fingerprint = sha256_json({key: record[key] for key in ("inputs", "params")})
        record["fingerprint"] = fingerprint
        title = self._title(folder, name)
        clear: Callable[[], None] = _nothing
        if manifest.is_file():
            old = read_json(manifest)
            reason = self._why_not(folder, old, record, pipeline, outputs)
            if reason is None:
                _log.info("%s: reused, nothing to do", title)
                if not _made_by(manifest).is_file():
                    write_json(_made_by(manifest), {"code": code_hash()})
                if read_json(_made_by(manifest))["code"] != code_hash():
                    _log.warning(
                        "%s was made by other code; to make it anew: --params redo=%s",
                        title, pipeline,
                    )  # fmt: skip
                return Result(folder, reused=True, fingerprint=fingerprint), clear
            if self._dry:
                _log.info("%s would be made anew: %s", title, reason)
            clear = partial(
                self._archive, folder, manifest, old["fingerprint"], old["outputs"], title, reason
            )
        return Work(folder, manifest, record, tuple(outputs), self._hashes), clear

    def _title(self, folder: Path, name: str) -> str:
        try:
            where = folder.relative_to(self._project / "data")
        except ValueError:
            where = folder
        return f"{where.as_posix()}{'/' + name if name else ''}"

    def _why_not(
        self,
        folder: Path,
        old: Mapping[str, Any],
        new: Mapping[str, Any],
        pipeline: str,
        outputs: Sequence[str],
    ) -> str | None:
        """Why the finished result does not stand; None when it does."""
        if pipeline in self._redo or "all" in self._redo:
            return "redo was asked for"
        if old["fingerprint"] != new["fingerprint"]:
            return "; ".join(differences(old, new)) or "made in another format"
        for relative, digest in old["outputs"].items():
            path = folder / relative
            if not path.is_file():
                return f"{relative} is gone"
            if self._hashes.file(path) != digest:
                return f"{relative} was changed since"
        for relative in outputs:
            if not (folder / relative).exists():
                return f"{relative} is missing, which an older version did not make"
        return None

    def _archive(
        self,
        folder: Path,
        manifest: Path | None,
        fingerprint: str,
        outputs: Iterable[str],
        title: str,
        reason: str,
    ) -> None:
        """Move a result (all of its folder, or its named files) out of the way."""
        stem = fingerprint[:8]
        base = folder.parent if manifest is None or manifest.name == "manifest.json" else folder
        place = base / "archive" / stem
        number = 1
        while place.exists():
            # The same recipe can be archived twice (redo, damaged): keep each.
            number += 1
            place = base / "archive" / f"{stem}-{number}"
        place.mkdir(parents=True)
        _log.warning(
            "%s: %s; the old result moves to %s", title, reason, self._title(place, "")
        )  # fmt: skip
        if base == folder.parent:
            folder.rename(place / folder.name)
            folder.mkdir()
        else:
            assert manifest is not None
            # The manifest goes first: without it the files left behind are no finished result.
            manifest.rename(place / manifest.name)
            if _made_by(manifest).is_file():
                _made_by(manifest).rename(place / _made_by(manifest).name)
            for relative in outputs:
                if (folder / relative).exists():
                    (place / relative).parent.mkdir(parents=True, exist_ok=True)
                    (folder / relative).rename(place / relative)
        fsync_directory(base)

    def _claim(
        self,
        folder: Path,
        record: Mapping[str, Any],
        outputs: Sequence[str],
        title: str,
        adopt: bool | None,
    ) -> None:
        """Mark unfinished work as this recipe's; archive another recipe's, unless ``adopt``."""
        claim = folder / _CLAIM
        others = [path for path in folder.iterdir() if path.name not in ("archive", _CLAIM)]
        if claim.is_file():
            other = read_json(claim)
            if other["fingerprint"] == record["fingerprint"]:
                if others:
                    _log.info("%s: unfinished work found, it goes on", title)
                return
            known = "params" in other  # which an older version did not keep
            changed = "; ".join(differences(other, record)) if known else "its parameters changed"
            if adopt:
                _log.warning("%s: unfinished work goes on although %s", title, changed)
            else:
                hint = "" if adopt is None else " (--params resume=force would go on from it)"
                reason = f"unfinished work of another recipe lies there: {changed}{hint}"
                self._archive(folder, None, other["fingerprint"], outputs, title, reason)
        elif others:
            self._archive(
                folder, None, "unknown0", outputs, title, "files without a manifest lie there"
            )
        write_json(claim, {key: record[key] for key in ("fingerprint", "inputs", "params")})


@dataclass(frozen=True)
class Work:
    """A result in the making: write its outputs into ``folder``, then ``finish``."""

    folder: Path
    manifest: Path
    record: Mapping[str, Any]
    outputs: tuple[str, ...]
    hashes: ContentHashes

    def finish(self) -> Result:
        """Hash the outputs and write the manifest, which makes the result a finished one."""
        paths: list[Path] = []
        for relative in self.outputs:
            path = self.folder / relative
            if path.is_dir():
                paths += sorted(inner for inner in path.rglob("*") if inner.is_file())
            else:
                paths.append(path)
        digests = self.hashes.files(paths, fresh=True)
        names = [path.relative_to(self.folder).as_posix() for path in paths]
        outputs = dict(zip(names, digests, strict=True))
        write_json(_made_by(self.manifest), {"code": code_hash()})
        write_json(self.manifest, {**self.record, "outputs": outputs})
        (self.folder / _CLAIM).unlink(missing_ok=True)
        _made.update([self.folder] if self.manifest.name == "manifest.json" else paths)
        return Result(self.folder, reused=False, fingerprint=self.record["fingerprint"])


def _leads_up(folder: Path) -> bool:
    """Whether a link leads to a folder that it lies in itself, and so for ever round."""
    return folder.is_symlink() and folder.resolve() in (folder.parent.resolve() / "x").parents


def _nothing() -> None:
    """No older result lies in the way."""


def _make_aside(
    folder: Path,
    outputs: Sequence[str],
    make: Callable[[Path], object],
    clear: Callable[[], None],
) -> None:
    # Beside the folder, which may move to the archive as a whole.
    prefix = f".partial-{folder.name}-"
    for orphan in folder.parent.glob(f"{glob.escape(prefix)}*"):
        shutil.rmtree(orphan)
    aside = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        make(aside)
        for relative in outputs:
            assert (aside / relative).exists(), f"{relative} was promised and not made"
        clear()
        for relative in outputs:
            made = aside / relative
            target = folder / relative
            if target.is_dir():
                shutil.rmtree(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            made.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _made_by(manifest: Path) -> Path:
    """Beside the manifest: which code made the result. Apart, so that the manifest of the same
    result is the same file on every machine and after every change of code."""
    return manifest.with_name(manifest.name.replace("manifest", "made_by"))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two manifests, in words: ``lr 0.1 -> 0.2``, ``pool_list changed``."""
    lines = []
    for role in sorted({*old["inputs"], *new["inputs"]}):
        if old["inputs"].get(role) != new["inputs"].get(role):
            lines.append(f"input {role} changed")
    before, after = flatten(old["params"]), flatten(new["params"])
    for key in sorted({*before, *after}):
        if before.get(key) != after.get(key):
            lines.append(f"{key} {before.get(key)!r} -> {after.get(key)!r}")
    return lines


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat.update(flatten(item, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = item
    return flat


_code_hash: str | None = None


def code_hash() -> str:
    """SHA-256 over the package's own Python files, so that a change of code can be told."""
    global _code_hash
    if _code_hash is None:
        package = Path(__file__).resolve().parents[1]
        _code_hash = sha256_json(
            [
                (path.relative_to(package).as_posix(), sha256_file(path))
                for path in sorted(package.rglob("*.py"))
            ]
        )
    return _code_hash


_made: set[Path] = set()


def note_made(path: Path) -> None:
    """Count ``path``, a summary of results that were made now, among what this process made."""
    _made.add(path)


def newly_made(path: Path) -> bool:
    """Whether this process made the result that ``path`` belongs to, rather than reused it."""
    return any(folder == path or folder in path.parents for folder in _made)
