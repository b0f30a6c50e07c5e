"""The one place that decides whether a finished result still stands.

A result is a set of files in a folder with a manifest: SHA-256 of what went in (contents and
validated parameters) and of what came out. Same manifest, outputs intact: it is reused and nothing
is written. Anything else: the old files move to ``archive/<fingerprint8>/`` and the work is done
anew. Nothing finished is ever overwritten or deleted. A change of code alone only warns.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from hgnetv2_pipeline import ownership
from hgnetv2_pipeline.differences import differences
from hgnetv2_pipeline.durable import fsync_directory, sha256_file, sha256_json, write_json
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.project.claims import claims
from hgnetv2_pipeline.project.contents import ContentHashes
from hgnetv2_pipeline.project.manifest import (
    FORMAT,
    DamagedError,
    read_manifest,
    read_outputs,
    read_recipe,
    read_state,
)

_log = logging.getLogger(__name__)
_CLAIM = "in_progress.json"
_UNKNOWN = "unknown0"
_STRAY = "files without a manifest lie there"


@dataclass(frozen=True)
class Result:
    """A finished result: its folder, and whether it stood already."""

    folder: Path
    reused: bool
    fingerprint: str


@dataclass(frozen=True)
class Recipe:
    """What a result is to be: its place, what it is made from, and the names of its files."""

    folder: Path
    name: str
    title: str
    record: Mapping[str, Any]
    outputs: tuple[str, ...]

    @property
    def manifest(self) -> Path:
        return self.folder / (f"{self.name}.manifest.json" if self.name else "manifest.json")

    @property
    def pipeline(self) -> str:
        return str(self.record["pipeline"])

    @property
    def fingerprint(self) -> str:
        return str(self.record["fingerprint"])


@dataclass(frozen=True)
class _Old:
    """What lies where a result is to be made, and why it does not stand."""

    reason: str
    fingerprint: str
    outputs: tuple[str, ...]


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
            if not manifest.is_file():
                return self._hashes.tree(value)
            try:
                return sha256_json(read_outputs(manifest))
            except DamagedError as error:
                raise DataError(
                    f"{value} is needed: {error}; the pipeline that makes it sets it aside and "
                    "makes it anew"
                ) from error
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
        wait: bool = False,
    ) -> Result:
        """Return the result in ``folder``, making it with ``make(aside)`` unless it stands.

        ``make`` writes into an empty folder aside, whose files are renamed into place when all of
        them are whole; a process that is killed between two of them leaves the rest to the next
        call. With ``wait``, for what several runs make alike, one waits for another that makes it
        now. The other arguments are those of ``begin``, which raises the same.
        """
        recipe = self._recipe(folder, pipeline, inputs, params, outputs, name)
        found = self._standing(recipe)
        if isinstance(found, Result):
            return found
        claims.before_making()
        with ownership.sole(folder, name, wait=wait):
            self._clean(recipe)
            found = self._standing(recipe)
            if isinstance(found, Result):
                return found
            aside = ownership.new_partial(folder, name)
            try:
                make(aside)
                _seal(aside, recipe, self._hashes)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
            # Made first, cleared then: what fails leaves the earlier result where it was.
            if found is not None:
                self._archive(recipe, found)
            self._settle(aside, recipe)
        return self._finished(recipe)

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
            The finished ``Result``, or ``Work``: write the outputs, then call its ``finish``. Until
            then, or the end of this process, nobody else may make it.

        Raises:
            ParameterError: another living process makes it; nothing was touched.
        """
        recipe = self._recipe(folder, pipeline, inputs, params, outputs, name)
        found = self._standing(recipe)
        if isinstance(found, Result):
            return found
        if self._dry:
            if found is not None:
                _log.info("%s would be made anew: %s", recipe.title, found.reason)
            return Work(recipe, self._hashes, None)
        claims.before_making()
        claim = ownership.take(folder, name)
        try:
            self._clean(recipe)
            found = self._standing(recipe)
            if isinstance(found, Result):
                claim.release()
                return found
            if found is not None:
                self._archive(recipe, found)
            folder.mkdir(parents=True, exist_ok=True)
            if resumable:
                self._mark(recipe, adopt)
            elif strays := _there(folder, recipe.outputs):
                self._archive(recipe, _Old(_STRAY, _UNKNOWN, strays))
        except BaseException:
            claim.release()
            raise
        return Work(recipe, self._hashes, claim)

    def _recipe(
        self,
        folder: Path,
        pipeline: str,
        inputs: Mapping[str, Path | str],
        params: BaseModel | Mapping[str, Any],
        outputs: Sequence[str],
        name: str,
    ) -> Recipe:
        values = params.model_dump(mode="json") if isinstance(params, BaseModel) else dict(params)
        record: dict[str, Any] = {
            "format": FORMAT,
            "pipeline": pipeline,
            "inputs": {role: self.digest(value) for role, value in sorted(inputs.items())},
            "params": values,
        }
        record["fingerprint"] = sha256_json({key: record[key] for key in ("inputs", "params")})
        return Recipe(folder, name, self._title(folder, name), record, tuple(outputs))

    def _standing(self, recipe: Recipe) -> Result | _Old | None:
        """The finished result, or why the one that lies there is none; None where none lies."""
        manifest = recipe.manifest
        if not manifest.is_file():
            return None
        try:
            old = read_manifest(manifest, recipe.folder)
        except DamagedError as error:
            return _Old(str(error), _UNKNOWN, recipe.outputs)
        reason = self._why_not(recipe, old)
        if reason is not None:
            return _Old(reason, old["fingerprint"], tuple(old["outputs"]))
        _log.info("%s: reused, nothing to do", recipe.title)
        if not self._dry:
            self._compare_code(recipe)
            self._sweep_dead(recipe)
        return Result(recipe.folder, reused=True, fingerprint=recipe.fingerprint)

    def _compare_code(self, recipe: Recipe) -> None:
        """Warn of a result that other code made; what does not say so counts as made by ours."""
        made_by = _made_by(recipe.manifest)
        code = None
        if made_by.is_file():
            try:
                code = read_state(made_by).get("code")
            except DamagedError as error:
                _log.warning("%s: %s; it is written anew", recipe.title, error)
        if code is None:
            write_json(made_by, {"code": code_hash()})
        elif code != code_hash():
            _log.warning(
                "%s was made by other code; to make it anew: --params redo=%s",
                recipe.title, recipe.pipeline,
            )  # fmt: skip

    def _title(self, folder: Path, name: str) -> str:
        try:
            where = folder.relative_to(self._project / "data")
        except ValueError:
            where = folder
        return f"{where.as_posix()}{'/' + name if name else ''}"

    def _why_not(self, recipe: Recipe, old: Mapping[str, Any]) -> str | None:
        """Why the finished result does not stand; None when it does."""
        if self._redo & {recipe.pipeline, "all"}:
            return "redo was asked for"
        if old["fingerprint"] != recipe.fingerprint:
            return "; ".join(changes(old, recipe.record)) or "made in another format"
        for relative, digest in old["outputs"].items():
            path = recipe.folder / relative
            if not path.is_file():
                return f"{relative} is gone"
            if self._hashes.file(path) != digest:
                return f"{relative} was changed since"
        for relative in recipe.outputs:
            if not (recipe.folder / relative).exists():
                return f"{relative} is missing, which an older version did not make"
        return None

    def _archive(self, recipe: Recipe, old: _Old) -> None:
        """Move a result (all of its folder, or its named files) out of the way."""
        folder, manifest = recipe.folder, recipe.manifest
        place = _new_place(folder if recipe.name else folder.parent, old.fingerprint)
        _log.warning(
            "%s: %s; the old result moves to %s",
            recipe.title, old.reason, self._title(place, ""),
        )  # fmt: skip
        if recipe.name:
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

    def _mark(self, recipe: Recipe, adopt: bool | None) -> None:
        """Mark unfinished work as this recipe's; archive another recipe's, unless ``adopt``."""
        folder, record = recipe.folder, recipe.record
        claim = folder / _CLAIM
        others = [path for path in folder.iterdir() if path.name not in ("archive", _CLAIM)]
        if claim.is_file():
            try:
                other = read_recipe(claim)
            except DamagedError as error:
                self._archive(recipe, _Old(str(error), _UNKNOWN, recipe.outputs))
            else:
                if other["fingerprint"] == recipe.fingerprint:
                    if others:
                        _log.info("%s: unfinished work found, it goes on", recipe.title)
                    return
                known = "params" in other  # which an older version did not keep
                changed = "; ".join(changes(other, record)) if known else "its parameters changed"
                if adopt:
                    _log.warning("%s: unfinished work goes on although %s", recipe.title, changed)
                else:
                    hint = "" if adopt is None else " (--params resume=force would go on from it)"
                    reason = f"unfinished work of another recipe lies there: {changed}{hint}"
                    old = _Old(reason, other["fingerprint"], recipe.outputs)
                    self._archive(recipe, old)
        elif others:
            self._archive(recipe, _Old(_STRAY, _UNKNOWN, recipe.outputs))
        write_json(claim, {key: record[key] for key in ("fingerprint", "inputs", "params")})

    # What killed processes left.

    def _clean(self, recipe: Recipe) -> None:
        """Finish or remove what earlier processes left; this one holds the lock."""
        for aside in ownership.partial_folders(recipe.folder, recipe.name):
            if (aside / recipe.manifest.name).is_file():
                _log.info("%s: made by a process that was killed, now put in place", recipe.title)
                self._settle(aside, recipe)
            else:
                _log.info("removing %s, left by a process that was killed", aside)
                shutil.rmtree(aside)
        ownership.sweep_temporaries(recipe.folder, targets=self._targets(recipe))

    def _sweep_dead(self, recipe: Recipe) -> None:
        """Remove what dead processes left beside a result that stands, if nobody makes it anew."""
        for file in (recipe.manifest, _made_by(recipe.manifest)):
            ownership.sweep_dead(file)
        left = ownership.partial_folders(recipe.folder, recipe.name, dead=True)
        mark = recipe.folder / _CLAIM
        marked = not recipe.name and mark.is_file()  # killed between its manifest and its end
        if left or marked or ownership.is_dead(recipe.folder, recipe.name):
            with suppress(ownership.HeldError), ownership.sole(recipe.folder, recipe.name):
                if marked:
                    mark.unlink(missing_ok=True)
                for path in left:
                    shutil.rmtree(path, ignore_errors=True)

    def _targets(self, recipe: Recipe) -> list[str]:
        """Files whose temporary ones are this result's; none: all in its folder are."""
        if not recipe.name:
            return []
        return [recipe.manifest.name, _made_by(recipe.manifest).name, *recipe.outputs]

    def _settle(self, aside: Path, recipe: Recipe) -> None:
        """Move a whole result into its place, its manifest last; what lies there is archived."""
        folder, manifest = recipe.folder, recipe.manifest
        outputs = read_outputs(aside / manifest.name)
        units = _units(aside, recipe, outputs)
        if in_the_way := _there(folder, units):
            self._archive(recipe, _Old(_STRAY, _UNKNOWN, in_the_way))
        for name in units:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).rename(folder / name)
        for name in (_made_by(manifest).name, manifest.name):
            if (aside / name).exists():
                (aside / name).replace(folder / name)
        fsync_directory(folder)
        self._hashes.note([folder / name for name in outputs], list(outputs.values()))
        shutil.rmtree(aside, ignore_errors=True)

    def _finished(self, recipe: Recipe) -> Result:
        _note_outputs(recipe, read_outputs(recipe.manifest))
        return Result(recipe.folder, reused=False, fingerprint=recipe.fingerprint)


@dataclass(frozen=True)
class Work:
    """A result in the making: write its outputs into ``folder``, then ``finish``."""

    recipe: Recipe
    hashes: ContentHashes
    claim: ownership.Claim | None

    @property
    def folder(self) -> Path:
        return self.recipe.folder

    @property
    def record(self) -> Mapping[str, Any]:
        return self.recipe.record

    def finish(self) -> Result:
        """Hash the outputs and write the manifest, which makes the result a finished one."""
        _seal(self.folder, self.recipe, self.hashes)
        (self.folder / _CLAIM).unlink(missing_ok=True)
        _note_outputs(self.recipe, read_outputs(self.recipe.manifest))
        if self.claim is not None:
            self.claim.release()
        return Result(self.folder, reused=False, fingerprint=self.recipe.fingerprint)


def _seal(folder: Path, recipe: Recipe, hashes: ContentHashes) -> None:
    """Write the manifest of the outputs in ``folder``, with the hashes of what lies there now."""
    paths: list[Path] = []
    for relative in recipe.outputs:
        path = folder / relative
        assert path.exists(), f"{relative} was promised and not made"  # noqa: S101
        if path.is_dir():
            paths += sorted(inner for inner in path.rglob("*") if inner.is_file())
        else:
            paths.append(path)
    # Remembered hashes are of no use here: what is told is what was written.
    digests = hashes.files(paths, fresh=True)
    names = [path.relative_to(folder).as_posix() for path in paths]
    manifest = folder / recipe.manifest.name
    write_json(_made_by(manifest), {"code": code_hash()})
    write_json(manifest, {**recipe.record, "outputs": dict(zip(names, digests, strict=True))})


def _note_outputs(recipe: Recipe, outputs: Iterable[str]) -> None:
    """Count a result among those that this process made."""
    named = [recipe.folder / name for name in outputs]
    _made.update(named if recipe.name else [recipe.folder])


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


def _units(aside: Path, recipe: Recipe, outputs: Iterable[str]) -> tuple[str, ...]:
    """What is still to be moved from ``aside``, a folder that was promised as one."""
    units = dict.fromkeys(recipe.outputs)
    for name in outputs:
        if not any(Path(name).is_relative_to(unit) for unit in recipe.outputs):
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
