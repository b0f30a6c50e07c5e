"""The models that a server answers for: loaded from exported folders, replaced without a pause.

A source is an exported folder or model file (version 1), a folder of numbered folders as Triton has
it (``1/``, ``2/`` ...: each a version, the highest is the default), or weights. Folders are looked
at again every second. One that has changed, and is whole by its manifest, is loaded beside the old
one and takes its place; requests that the old one has begun end with the old one. What is not whole
or does not answer its self-test changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hgnetv2_pipeline.deployment.card import LABELS, MANIFEST, PREPROCESS, precision_file
from hgnetv2_pipeline.deployment.engines.base import Engine
from hgnetv2_pipeline.durable import read_json, sha256_file
from hgnetv2_pipeline.errors import ParameterError, WeightsError
from hgnetv2_pipeline.foreign import foreign_file
from hgnetv2_pipeline.serving.batching import Batcher, BatchSpec
from hgnetv2_pipeline.serving.limits import RefusedRequest

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_EVERY = 1.0  # seconds between two looks at the folders

Fingerprint = tuple[tuple[str, int, int, int], ...]


@dataclass
class ServedModel:
    """One version of a model at work: its engine behind its queue."""

    name: str
    version: str
    batcher: Batcher
    fingerprint: Fingerprint
    users: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def engine(self) -> Engine:
        """What computes."""
        return self.batcher.engine

    def enter(self) -> None:
        """A request that this version will answer has begun."""
        self.users += 1

    def leave(self) -> None:
        """It has ended."""
        self.users -= 1
        if not self.users:
            self._idle.set()

    async def retire(self) -> None:
        """Wait for the requests that have begun, then end."""
        while self.users:
            self._idle.clear()
            await self._idle.wait()
        await self.batcher.close()


class Repository:
    """Models by name, their versions by number. ``load_all`` first; ``watch`` keeps looking."""

    def __init__(
        self, sources: list[tuple[str, str]], load: Callable[[str], Engine],
        batching: Callable[[Engine], BatchSpec],
    ) -> None:  # fmt: skip
        """``sources``: (name or nothing, path); ``load`` opens a path, ``batching`` says how the
        requests of an engine become batches.
        """
        self._sources, self._load, self._batching = sources, load, batching
        self.models: dict[str, dict[str, ServedModel]] = {}
        self._refused: dict[tuple[str, str], Fingerprint | str] = {}
        self._retiring: set[asyncio.Task[None]] = set()

    def find(self, name: str, version: str = "") -> ServedModel:
        """The version asked for, or the highest; RefusedRequest (404) where there is none."""
        versions = self.models.get(name)
        if not versions:
            raise RefusedRequest(404, f"no model {name!r:.200}; here are {', '.join(self.models)}")
        if not version:
            return versions[max(versions, key=int)]
        if version not in versions:
            raise RefusedRequest(
                404, f"model {name} has no version {version!r:.200}; here are {', '.join(versions)}"
            )
        return versions[version]

    @asynccontextmanager
    async def using(self, name: str, version: str = "") -> AsyncIterator[ServedModel]:
        """``find``, kept open until the block ends, whatever replaces it meanwhile."""
        model = self.find(name, version)
        model.enter()
        try:
            yield model
        finally:
            model.leave()

    def __iter__(self) -> Iterator[ServedModel]:
        for name in self.models:
            yield from self.models[name].values()

    async def load_all(self) -> None:
        """Load every version of every source. Raises what its files or engine raise."""
        for place, (name, path) in enumerate(self._sources):
            others, found = set(self.models), _versions(Path(path))
            if not found:
                raise WeightsError(f"{path} has no numbered folders with a model.onnx in them")
            for version, folder in found.items():
                before = _fingerprint(folder)
                engine = await asyncio.to_thread(self._open, str(folder), before)
                name = name or _name_of(engine, folder)
                if name in others:
                    raise ParameterError(
                        f"two models are called {name}: name them apart, as NAME={path}"
                    )
                self.models.setdefault(name, {})
                self._put(name, version, engine, before)
            self._sources[place] = name, path

    async def watch(self) -> None:
        """Look for changed folders for ever."""
        while True:
            await asyncio.sleep(_EVERY)
            await self.look()

    async def look(self) -> None:
        """Take what has changed since: new, replaced and removed versions."""
        for name, path in self._sources:
            try:
                found = _versions(Path(path))
            except OSError as error:  # its versions stay; what stays so is said once
                if self._refused.get((name, "")) != str(error):
                    _log.warning("model %s stays as it is: %s", name, error)
                self._refused[name, ""] = str(error)
                continue
            for version, folder in found.items():
                here = self.models[name].get(version)
                now = _fingerprint(folder)
                known = here and here.fingerprint, self._refused.get((name, version))
                if not now or now in known:
                    continue
                try:
                    engine = await asyncio.to_thread(self._open, str(folder), now)
                except Exception as error:  # whatever it is, what answers now goes on
                    # Files may still be coming; what stays so is said once.
                    self._refused[name, version] = now
                    _log.warning("model %s version %s stays as it is: %s", name, version, error)
                    continue
                self._put(name, version, engine, now)
            for version in self.models[name].keys() - found.keys():
                # The last one stays: a folder that is being replaced is missing for a moment.
                if len(self.models[name]) > 1:
                    self._drop(self.models[name].pop(version))

    async def close(self) -> None:
        """End all engines, once their requests have ended."""
        await asyncio.gather(*(model.retire() for model in self), *self._retiring)

    def _open(self, path: str, before: Fingerprint) -> Engine:
        folder = Path(path)
        if (folder / precision_file("fp32")).is_file():
            verify_export(folder)
        engine = self._load(path)
        if _fingerprint(folder) != before:
            engine.close()
            raise WeightsError(f"{path} changed while it was read")
        return engine

    def _put(self, name: str, version: str, engine: Engine, fingerprint: Fingerprint) -> None:
        old = self.models[name].get(version)
        batcher = Batcher(engine, self._batching(engine))
        self.models[name][version] = ServedModel(name, version, batcher, fingerprint)
        _log.info(
            "model %s version %s: %s, %s on %s%s", name, version, engine.card.variant,
            engine.precision, engine.name, " in place of the one before" if old else "",
        )  # fmt: skip
        if old is not None:
            self._drop(old)

    def _drop(self, old: ServedModel) -> None:
        task = asyncio.create_task(old.retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


def verify_export(folder: Path) -> None:
    """Raise WeightsError unless an exported folder is whole, and each file as its manifest says."""
    missing = [n for n in (MANIFEST, LABELS, PREPROCESS) if not (folder / n).is_file()]
    if missing:
        raise WeightsError(
            f"{folder} has no {' and no '.join(missing)}; export it again (kedro run --pipeline "
            "export), or name its model.onnx"
        )
    with foreign_file(folder / MANIFEST, WeightsError):
        listed = dict(read_json(folder / MANIFEST)["files"])
        if unlisted := {precision_file("fp32"), LABELS, PREPROCESS} - set(listed):
            raise WeightsError(f"{folder / MANIFEST} does not list {', '.join(sorted(unlisted))}")
        for name, digest in listed.items():
            if Path(name).name != name or not (folder / name).is_file():
                raise WeightsError(f"{folder} has no {name!r:.200}, which its {MANIFEST} lists")
            if sha256_file(folder / name) != digest:
                raise WeightsError(
                    f"{folder / name} is not the file that {MANIFEST} lists: its SHA-256 differs"
                )


def _versions(path: Path) -> dict[str, Path]:
    """The folder or file of each version of a source."""
    if not path.is_dir() or (path / precision_file("fp32")).is_file():
        return {"1": path}
    numbered = {child.name: child for child in path.iterdir() if _NUMBER.fullmatch(child.name)}
    found = {
        name: child
        for name, child in sorted(numbered.items(), key=lambda item: int(item[0]))
        if (child / precision_file("fp32")).is_file()
    }
    # A run's folder has no numbered ones: it is weights.
    return found if numbered else {"1": path}


def _fingerprint(path: Path) -> Fingerprint:
    """What tells that a version was replaced, without reading it; nothing where it is not there."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    found = []
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            continue
        found.append((file.name, stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return tuple(found)


def _name_of(engine: Engine, path: Path) -> str:
    name = engine.card.variant or re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem)
    return name if _NAME.fullmatch(name) else "model"


def parse_source(text: str) -> tuple[str, str]:
    """``NAME=PATH`` or ``PATH``; the name is empty where none is given.

    A path may have = in it: what is before the first counts only where it could be a name and the
    whole is no path that exists.
    """
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists() or not _NAME.fullmatch(name):
        return "", text
    return name, path
