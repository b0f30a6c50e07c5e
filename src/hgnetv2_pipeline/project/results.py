"""The one place that decides whether a finished result is still valid.

A result is a set of files in a folder with a manifest: SHA-256 of what went in (contents and
validated parameters) and of what came out. Same manifest, outputs intact: it is reused and nothing
is written. Anything else: the old files move to ``archive/<fingerprint8>/`` and the work is done
again. Nothing finished is ever overwritten or deleted. A change of code alone is only reported.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hgnetv2_pipeline import ownership
from hgnetv2_pipeline.differences import differences
from hgnetv2_pipeline.durable import fsync_directory, sha256_file, sha256_json, write_json
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.progress import SHOWN
from hgnetv2_pipeline.project.claims import claims
from hgnetv2_pipeline.project.contents import ContentHashes
from hgnetv2_pipeline.project.manifest import (
    FORMAT,
    DamagedError,
    read_json_object,
    read_manifest,
    read_outputs,
    read_recipe,
)

_log = logging.getLogger(__name__)
_CLAIM = "in_progress.json"
BEGINS = "begins_work"
"""Attribute of the log record that says that a result is about to be made."""
_UNKNOWN = "unknown0"
_STRAY = "files without a manifest are there"


@dataclass(frozen=True)
class Result:
    """A finished result: its folder, and whether it was there already."""

    folder: Path
    reused: bool
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class ResultSpec:
    """What a result is to be.

    Attributes:
        folder: where it is; the names in ``outputs`` are relative to it and may be folders.
        pipeline: who makes it, for messages and ``redo``.
        inputs: files, folders or texts that go in, by role.
        params: what else decides the outcome, as JSON values.
        outputs: the files it consists of.
        beside: files that are kept with them if they were made, and that the manifest leaves out.
        name: set where several results share a folder: its manifest is ``<name>.manifest.json``
            instead of ``manifest.json``.
        resumable: it is made in its place, and what an interrupted earlier call with the same
            fingerprint left there stays, to go on from; that of another recipe is archived. Else it
            is made aside, and its files are renamed into place when all of them are whole.
        adopt: whether unfinished work of another recipe is gone on with all the same
            (``resume=force``); None: this kind of work cannot be.
        wait: several runs make it alike: one waits for another that makes it now.
    """

    folder: Path
    pipeline: str
    inputs: Mapping[str, Path | str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    outputs: Sequence[str]
    beside: Sequence[str] = ()
    name: str = ""
    resumable: bool = False
    adopt: bool | None = None
    wait: bool = False

    @property
    def manifest(self) -> Path:
        return self.folder / (f"{self.name}.manifest.json" if self.name else "manifest.json")


@dataclass(frozen=True, kw_only=True)
class _Planned(ResultSpec):
    """A result that is to be, with its title for messages and the record for its manifest."""

    title: str
    record: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        return str(self.record["fingerprint"])


@dataclass(frozen=True)
class _Old:
    """An earlier result in the place of a new one, and why it is not reused; whether that is as it
    should be: other inputs or parameters, or ``redo``."""

    reason: str
    fingerprint: str
    outputs: Sequence[str]
    expected: bool = False


class Reuse:
    """Makes results, or finds that they are there, for one project.

    Args:
        project: folder that holds ``data/``; remembered hashes are kept in ``data/.hashes.sqlite``.
        redo: names of pipelines whose results are made again whatever the manifest says.
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
            if not manifest.is_file():
                return self._hashes.tree(value)
            try:
                return sha256_json(read_outputs(manifest))
            except DamagedError as error:
                raise DataError(
                    f"{value} is needed: {error}; the pipeline that makes it sets it aside and "
                    "makes it again"
                ) from error
        if not value.exists():
            raise DataError(f"{value} is needed and does not exist")
        return self._hashes.file(value)

    def contents(self, paths: Sequence[Path]) -> str:
        """One hash of the contents of some files, those that are missing included."""
        return sha256_json(self._hashes.of_any_kind(paths))

    def produce(self, spec: ResultSpec, make: Callable[[Path], object]) -> Result:
        """Return the result that ``spec`` says, made by ``make(folder)`` unless it is finished.

        ``make`` writes into an empty folder aside, or (``resumable``) into the place itself. Raises
        what ``begin`` and ``make`` raise; after an error nothing of what was made aside is left.
        """
        assert not self._dry, "a plan makes nothing"
        work = self.begin(spec)
        if isinstance(work, Result):
            return work
        try:
            make(work.folder)
            return work.finish()
        finally:
            work.give_up()

    def begin(self, spec: ResultSpec) -> Result | Work:
        """Find the result that ``spec`` says, or clear the way for making it.

        Returns:
            The finished ``Result``, or ``Work``: write the outputs into its folder, then call its
            ``finish``. Until then, or the end of this process, nobody else may make it.

        Raises:
            ParameterError: another living process makes it; nothing was touched.
        """
        planned = self._plan(spec)
        found = self._standing(planned)
        if isinstance(found, Result):
            return found
        if self._dry:
            if found is not None:
                _log.info("%s would be made again: %s", planned.title, found.reason)
            return Work(self, planned, spec.folder)
        claims.before_making()
        with ExitStack() as held:
            self._lock(spec, held)
            self._clean(planned)
            found = self._standing(planned)
            if isinstance(found, Result):
                return found
            if spec.resumable:
                if found is not None:
                    self._archive(planned, found)
                spec.folder.mkdir(parents=True, exist_ok=True)
                self._mark(planned)
                folder, found = spec.folder, None
            else:
                folder = ownership.new_partial(spec.folder, spec.name)
            _log.info("%s: begun", planned.title, extra={BEGINS: True})
            return Work(self, planned, folder, found, held.pop_all())

    @staticmethod
    def _lock(spec: ResultSpec, held: ExitStack) -> None:
        if spec.resumable:
            # Whoever began it in this process may begin it once more.
            held.enter_context(ownership.take(spec.folder, spec.name))
        else:
            held.enter_context(ownership.sole(spec.folder, spec.name, wait=spec.wait))

    def _plan(self, spec: ResultSpec) -> _Planned:
        record: dict[str, Any] = {
            "format": FORMAT,
            "pipeline": spec.pipeline,
            "inputs": {role: self.digest(value) for role, value in sorted(spec.inputs.items())},
            "params": dict(spec.params),
        }
        record["fingerprint"] = sha256_json({key: record[key] for key in ("inputs", "params")})
        return _Planned(**vars(spec), title=self._title(spec.folder, spec.name), record=record)

    def _standing(self, planned: _Planned) -> Result | _Old | None:
        """The finished result, or why what is there is not one; None where nothing is there."""
        manifest = planned.manifest
        if not manifest.is_file():
            return None
        try:
            old = read_manifest(manifest, planned.folder)
        except DamagedError as error:
            return _Old(str(error), _UNKNOWN, planned.outputs)
        reason = self._why_not(planned, old)
        if reason is not None:
            expected = old["fingerprint"] != planned.fingerprint or self._is_redone(planned)
            return _Old(reason, old["fingerprint"], tuple(old["outputs"]), expected)
        _log.info("%s: reused", planned.title)
        if not self._dry:
            self._compare_code(planned)
            self._sweep_dead(planned)
        return Result(planned.folder, reused=True, fingerprint=planned.fingerprint)

    def _compare_code(self, planned: _Planned) -> None:
        """Note a result that other code made; what does not say so counts as made by ours."""
        made_by = _made_by(planned.manifest)
        code = None
        if made_by.is_file():
            try:
                code = read_json_object(made_by).get("code")
            except DamagedError as error:
                _log.warning("%s: %s; it is written again", planned.title, error)
        if code is None:
            write_json(made_by, {"code": code_hash()})
        elif code != code_hash():
            _log.info(
                "%s was made by other code; to make it again: --params redo=%s",
                planned.title, planned.pipeline,
            )  # fmt: skip
            _of_other_code.add(planned.title)

    def _title(self, folder: Path, name: str) -> str:
        try:
            where = folder.relative_to(self._project / "data")
        except ValueError:
            where = folder
        return f"{where.as_posix()}{'/' + name if name else ''}"

    def _why_not(self, planned: _Planned, old: Mapping[str, Any]) -> str | None:
        """Why the finished result is not valid; None when it is."""
        if self._is_redone(planned):
            return "redo was asked for"
        if old["fingerprint"] != planned.fingerprint:
            return "; ".join(changes(old, planned.record)) or "made in another format"
        for relative, digest in old["outputs"].items():
            path = planned.folder / relative
            if not path.is_file():
                return f"{relative} is gone"
            if self._hashes.file(path) != digest:
                return f"{relative} was changed since"
        for relative in planned.outputs:
            if not (planned.folder / relative).exists():
                return f"{relative} is missing, which an older version did not make"
        return None

    def _is_redone(self, planned: _Planned) -> bool:
        return bool(self._redo & {planned.pipeline, "all"})

    def _archive(self, planned: _Planned, old: _Old) -> None:
        """Move a result (all of its folder, or its named files) out of the way."""
        folder, manifest = planned.folder, planned.manifest
        place = _new_place(folder if planned.name else folder.parent, old.fingerprint)
        _archived.append(place)
        _log.log(
            logging.INFO if old.expected else logging.WARNING,
            "%s: %s; the old result moves to %s",
            planned.title, old.reason, self._title(place, ""),
        )  # fmt: skip
        if planned.name:
            # The manifest goes first: without it the files left behind are no finished result.
            for path in (manifest, _made_by(manifest), *(folder / name for name in old.outputs)):
                if path.exists():
                    target = place / path.relative_to(folder)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    path.rename(target)
        else:
            folder.rename(place / folder.name)
            folder.mkdir()
        fsync_directory(place.parent.parent)

    def _mark(self, planned: _Planned) -> None:
        """Mark unfinished work as this result's; archive that of another, unless ``adopt``."""
        folder, record = planned.folder, planned.record
        claim = folder / _CLAIM
        others = [path for path in folder.iterdir() if path.name not in ("archive", _CLAIM)]
        if claim.is_file():
            try:
                other = read_recipe(claim)
            except DamagedError as error:
                self._archive(planned, _Old(str(error), _UNKNOWN, planned.outputs))
            else:
                if other["fingerprint"] == planned.fingerprint:
                    if others:
                        _log.log(
                            SHOWN, "%s: unfinished work was found and is resumed", planned.title
                        )
                    return
                known = "params" in other  # which an older version did not keep
                changed = "; ".join(changes(other, record)) if known else "its parameters changed"
                if planned.adopt:
                    _log.warning(
                        "%s: unfinished work is resumed although %s", planned.title, changed
                    )
                else:
                    hint = (
                        ""
                        if planned.adopt is None
                        else " (--params resume=force would go on from it)"
                    )
                    reason = f"unfinished work of another recipe is there: {changed}{hint}"
                    old = _Old(reason, other["fingerprint"], planned.outputs)
                    self._archive(planned, old)
        elif others:
            self._archive(planned, _Old(_STRAY, _UNKNOWN, planned.outputs))
        write_json(claim, {key: record[key] for key in ("fingerprint", "inputs", "params")})

    # What killed processes left.

    def _clean(self, planned: _Planned) -> None:
        """Finish or remove what earlier processes left; this one holds the lock."""
        for aside in ownership.partial_folders(planned.folder, planned.name):
            if (aside / planned.manifest.name).is_file():
                _log.info("%s: made by a process that was killed, now put in place", planned.title)
                self._settle(aside, planned)
            else:
                _log.info("removing %s, left by a process that was killed", aside)
                shutil.rmtree(aside)
        ownership.sweep_temporaries(planned.folder, targets=self._targets(planned))

    def _sweep_dead(self, planned: _Planned) -> None:
        """Remove what dead processes left beside a finished result, if nobody makes it again."""
        for file in (planned.manifest, _made_by(planned.manifest)):
            ownership.sweep_dead(file)
        left = ownership.partial_folders(planned.folder, planned.name, dead=True)
        mark = planned.folder / _CLAIM
        marked = not planned.name and mark.is_file()  # killed between its manifest and its end
        if left or marked or ownership.is_dead(planned.folder, planned.name):
            with suppress(ownership.HeldError), ownership.sole(planned.folder, planned.name):
                if marked:
                    mark.unlink(missing_ok=True)
                for path in left:
                    shutil.rmtree(path, ignore_errors=True)

    def _targets(self, planned: _Planned) -> list[str]:
        """A result's files whose temporary ones are its own as well; none: all in its folder."""
        if not planned.name:
            return []
        return [
            planned.manifest.name,
            _made_by(planned.manifest).name,
            *planned.outputs,
            *planned.beside,
        ]

    def complete(self, folder: Path, planned: _Planned, old: _Old | None) -> None:
        """Seal what was made in ``folder``, and move it into its place if it was made aside."""
        _seal(folder, planned, self._hashes)
        if folder == planned.folder:
            (folder / _CLAIM).unlink(missing_ok=True)
        else:
            # Made first, cleared then: what fails leaves the earlier result where it was.
            if old is not None:
                self._archive(planned, old)
            self._settle(folder, planned)
        _note_outputs(planned, read_outputs(planned.manifest))

    def _settle(self, aside: Path, planned: _Planned) -> None:
        """Move a whole result into its place, its manifest last; what is there is archived."""
        folder, manifest = planned.folder, planned.manifest
        outputs = read_outputs(aside / manifest.name)
        units = _units(aside, planned, outputs)
        if in_the_way := _there(folder, units):
            self._archive(planned, _Old(_STRAY, _UNKNOWN, in_the_way))
        for name in units:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).rename(folder / name)
        for name in (_made_by(manifest).name, manifest.name):
            if (aside / name).exists():
                (aside / name).replace(folder / name)
        fsync_directory(folder)
        self._hashes.note([folder / name for name in outputs], list(outputs.values()))
        shutil.rmtree(aside, ignore_errors=True)


@dataclass(frozen=True)
class Work:
    """A result in the making: write its outputs into ``folder``, then ``finish``."""

    reuse: Reuse
    planned: _Planned
    folder: Path
    old: _Old | None = None
    held: ExitStack = field(default_factory=ExitStack)

    @property
    def record(self) -> Mapping[str, Any]:
        """What the manifest will say, but for the outputs."""
        return self.planned.record

    def finish(self) -> Result:
        """Hash the outputs and write the manifest, which makes the result a finished one."""
        self.reuse.complete(self.folder, self.planned, self.old)
        self.held.close()
        return Result(self.planned.folder, reused=False, fingerprint=self.planned.fingerprint)

    def give_up(self) -> None:
        """Let others make it, and remove what was made aside; after ``finish`` it does nothing."""
        if self.folder != self.planned.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.held.close()


def _seal(folder: Path, planned: _Planned, hashes: ContentHashes) -> None:
    """Write the manifest of the outputs in ``folder``, with the hashes of what is there now."""
    paths: list[Path] = []
    for relative in planned.outputs:
        path = folder / relative
        assert path.exists(), f"{relative} was promised and not made"  # noqa: S101
        if path.is_dir():
            paths += sorted(inner for inner in path.rglob("*") if inner.is_file())
        else:
            paths.append(path)
    # Remembered hashes are of no use here: the manifest says what was written.
    digests = hashes.files(paths, fresh=True)
    names = [path.relative_to(folder).as_posix() for path in paths]
    manifest = folder / planned.manifest.name
    write_json(_made_by(manifest), {"code": code_hash()})
    write_json(manifest, {**planned.record, "outputs": dict(zip(names, digests, strict=True))})


def _note_outputs(planned: _Planned, outputs: Iterable[str]) -> None:
    """Count a result among those that this process made."""
    named = [planned.folder / name for name in outputs]
    _made.update(named if planned.name else [planned.folder])
    _makers.append(planned.pipeline)


def _new_place(base: Path, fingerprint: str) -> Path:
    """A new folder of the archive. The same recipe can be archived twice (redo, damaged)."""
    stem, number = fingerprint[:8], 1
    place = base / "archive" / stem
    while True:
        try:
            place.mkdir(parents=True)
        except FileExistsError:
            number += 1
            place = base / "archive" / f"{stem}-{number}"
        else:
            return place


def _there(folder: Path, names: Iterable[str]) -> tuple[str, ...]:
    """Those of the names that exist in the folder."""
    return tuple(name for name in names if (folder / name).exists())


def _units(aside: Path, planned: _Planned, outputs: Iterable[str]) -> tuple[str, ...]:
    """What is still to be moved from ``aside``, a folder that was promised as one."""
    units = dict.fromkeys([*planned.outputs, *planned.beside])
    for name in outputs:
        if not any(Path(name).is_relative_to(unit) for unit in planned.outputs):
            units[name] = None  # of a recipe of before
    return _there(aside, units)


def _made_by(manifest: Path) -> Path:
    """Beside the manifest: which code made the result. Apart, so that the manifest of the same
    result is the same file on every machine and after every change of code."""
    return manifest.with_name(manifest.name.replace("manifest", "made_by"))


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two manifests, in words: ``input train changed``, ``lr 0.1 -> 0.2``."""
    roles = sorted({*old["inputs"], *new["inputs"]})
    before, after = old["inputs"], new["inputs"]
    inputs = [f"input {role} changed" for role in roles if before.get(role) != after.get(role)]
    return inputs + differences(old["params"], new["params"])


_code_hash: str | None = None


def code_hash() -> str:
    """SHA-256 over the package's own Python files, so that a change of code is noticed."""
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
_makers: list[str] = []
_archived: list[Path] = []
_of_other_code: set[str] = set()  # titles


def count_made() -> int:
    """How many results this process has made so far, rather than reused."""
    return len(_makers)


def count_archived() -> int:
    """How many earlier results this process has moved into an archive so far."""
    return len(_archived)


def count_of_other_code() -> int:
    """How many reused results other code made, since this was last asked."""
    found = len(_of_other_code)
    _of_other_code.clear()
    return found


def note_made(path: Path) -> None:
    """Count ``path``, a summary of results that were made now, among what this process made."""
    _made.add(path)
    _makers.append(path.name)


def is_newly_made(path: Path) -> bool:
    """Whether this process made the result that ``path`` belongs to, rather than reused it."""
    return any(folder == path or folder in path.parents for folder in _made)
