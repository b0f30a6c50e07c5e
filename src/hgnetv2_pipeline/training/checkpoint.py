"""Checkpoints that are whole or absent: a directory per step, written aside, renamed when complete.

``checkpoints/step=00000150/`` holds a few ``.pt`` files and, written last, ``manifest.json`` with
the SHA-256 of each and the identity of the run. What has no manifest, or does not match it, is not
a checkpoint: it is passed over loudly and the next older one is loaded.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hgnetv2_pipeline.differences import differences
from hgnetv2_pipeline.durable import (
    fsync_directory,
    read_json,
    sha256_file,
    sha256_json,
    write_json,
)
from hgnetv2_pipeline.errors import DataError, DiskFullError, ParameterError
from hgnetv2_pipeline.exits import full_disk
from hgnetv2_pipeline.ownership import mark, sole

_log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT = 3


def save_checkpoint(
    folder: Path, step: int, parts: Mapping[str, Any], *, identity: Mapping[str, Any], keep: int
) -> Path:
    """Write ``parts`` (name -> what ``torch.save`` takes) as the checkpoint of ``step``.

    Returns its directory. Afterwards only the newest ``keep`` checkpoints remain; damaged ones that
    were in the way are kept aside as ``damaged-step=...``. A complete checkpoint of this step is
    left as it is. Raises ``DiskFullError`` with what was missing; the earlier ones are kept.
    """
    final = folder / f"step={step:08d}"
    if final.exists():
        if _fault(final) is None:
            return final
        _set_aside(final)
    aside = folder / f".{final.name}.{mark()}.tmp"
    aside.mkdir(parents=True)
    try:
        hashes = {}
        for name, value in parts.items():
            path = aside / f"{name}.pt"
            with path.open("wb") as file:
                torch.save(value, file)
                file.flush()
                os.fsync(file.fileno())
            hashes[path.name] = sha256_file(path)
        manifest = {"format": FORMAT, "step": step, "identity": dict(identity), "sha256": hashes}
        write_json(aside / MANIFEST, manifest | {"manifest_sha256": sha256_json(manifest)})
        fsync_directory(aside)
        aside.rename(final)
        fsync_directory(folder)
    except (OSError, RuntimeError) as error:
        full = full_disk(error, folder)  # while what was half-written still takes its room
        shutil.rmtree(aside, ignore_errors=True)
        if full and not isinstance(error, DiskFullError):
            raise DiskFullError(
                f"{full} while writing checkpoint {final}: about {_size(parts):,} bytes needed, "
                f"{shutil.disk_usage(folder).free:,} free; the earlier checkpoints are kept"
            ) from error
        raise
    # A run only ever passes a checkpoint with a higher step by because it was damaged.
    newer = [path for path in _steps(folder) if path.name > final.name]
    for path in newer:
        _set_aside(path)
    for path in _steps(folder)[keep:]:
        shutil.rmtree(path)
    return final


def load_checkpoint(
    folder: Path,
    *,
    identity: Mapping[str, Any],
    differing: Callable[[list[str]], object] | None = None,
) -> dict[str, Any] | None:
    """The parts of the newest complete checkpoint in ``folder``; None if there was never one.

    ``differing`` is given what differs between the ``identity`` in it and this one, in words
    (``training.lr: 0.5 there, 0.25 now``); without it such a checkpoint is refused.

    Raises ``DataError`` if there are checkpoints but every one is damaged, and ``ParameterError``
    if the newest complete one belongs to a run with another ``identity``, naming the differences.
    """
    candidates = _steps(folder)
    for path in candidates:
        fault = _fault(path)
        if fault is not None:
            _log.warning("checkpoint %s is passed over: %s", path, fault)
            continue
        if different := differences(read_json(path / MANIFEST)["identity"], identity):
            (differing or partial(_refuse, path))(different)
        names = read_json(path / MANIFEST)["sha256"]
        return {
            Path(name).stem: torch.load(path / name, map_location="cpu", weights_only=True)
            for name in names
        }
    if candidates:
        raise DataError(
            f"all {len(candidates)} checkpoints in {folder} are damaged; restore one, or move the "
            "folder away to start from the first step"
        )
    return None


@contextmanager
def lock_checkpoints(folder: Path) -> Iterator[None]:
    """Hold the run of the checkpoints in ``folder`` for this process.

    A second one is refused, naming the first: "another run is writing to ...". Directories that a
    killed run left half-written are removed.
    """
    with sole(folder.parent):
        folder.mkdir(parents=True, exist_ok=True)
        for orphan in folder.glob(".step=*.tmp"):
            _log.info("removing %s, left half-written by a run that was killed", orphan)
            shutil.rmtree(orphan)
        yield


def _steps(folder: Path) -> list[Path]:
    """Checkpoint directories, newest first."""
    return sorted((path for path in folder.glob("step=*") if path.is_dir()), reverse=True)


def _fault(path: Path) -> str | None:
    """What is wrong with the checkpoint at ``path``, or None."""
    try:
        manifest = read_json(path / MANIFEST)
        hashes, own = dict(manifest["sha256"]), manifest.pop("manifest_sha256", None)
        if manifest["format"] != FORMAT:
            return f"it has format {manifest['format']}, this version writes {FORMAT}"
        if own != sha256_json(manifest):
            return "its manifest does not match its own SHA-256"
    except FileNotFoundError:
        return "it has no manifest"
    except (ValueError, KeyError, TypeError) as error:
        return f"its manifest is unreadable ({error})"
    for name, expected in hashes.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if sha256_file(path / name) != expected:
            return f"{name} does not match its SHA-256"
    return None


def _set_aside(damaged: Path) -> None:
    target = damaged.with_name(f"damaged-{damaged.name}")
    shutil.rmtree(target, ignore_errors=True)
    damaged.rename(target)
    _log.warning("damaged checkpoint %s is now %s", damaged, target.name)


def _refuse(path: Path, different: list[str]) -> None:
    raise ParameterError(
        f"checkpoint {path} belongs to another run ({'; '.join(different)}); restore those values "
        "to resume it, archive the run's folder to start again, or go on under the new ones, which "
        'the result will then say (--params resume=force; in spec.json "resume": "force")'
    )


def _size(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return int(value.nbytes)
    if isinstance(value, Mapping):
        return sum(_size(inner) for inner in value.values())
    if isinstance(value, list | tuple):
        return sum(_size(inner) for inner in value)
    return 8
