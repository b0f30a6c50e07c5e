"""Manifests, read as what may be damaged, another program's, or written by someone else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from hgnetv2_pipeline.durable import is_sha256, read_json

FORMAT = "hgnetv2_pipeline/manifest/1"
_MOST_BYTES = 256 << 20


class DamagedError(ValueError):
    """A file of a result's own state is not what the product writes."""


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object of any content.

    Raises:
        DamagedError: it is cut short, empty, of another kind, or no text.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DamagedError(f"{path.name} is damaged: it is too large to be one")
        values = read_json(path)
    # JSON in UTF-8; nested too deep, it is a RecursionError.
    except (ValueError, RecursionError) as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError(f"{path.name} is damaged: it is no JSON") from error
    if not isinstance(values, dict):
        raise DamagedError(f"{path.name} is damaged: it holds no object")
    return values


def read_manifest(path: Path, folder: Path) -> dict[str, Any]:
    """The manifest of a result in ``folder``, every part of it checked.

    Raises:
        DamagedError: a part is missing or of another kind, or an output is named that is not
            in the folder.
    """
    values = read_recipe(path)
    for key, kind in {"pipeline": str, "format": str, "inputs": dict, "params": dict}.items():
        if not isinstance(values.get(key), kind):
            raise DamagedError(f"{path.name} is damaged: it does not say its {key}")
    read_outputs(path, values)
    for relative in values["outputs"]:
        if not _lies_in(folder, relative):
            raise DamagedError(f"{path.name} is damaged: it names {relative!r} as an output")
    return values


def read_recipe(path: Path) -> dict[str, Any]:
    """What a manifest and a mark of unfinished work have in common: fingerprint, inputs, params.

    Raises:
        DamagedError: one of them is missing or of another kind.
    """
    values = read_json_object(path)
    if not is_sha256(values.get("fingerprint")):
        raise DamagedError(f"{path.name} is damaged: it has no fingerprint")
    # A mark by an older version has the fingerprint alone.
    for key in ("inputs", "params"):
        if not isinstance(values.get(key, {}), dict):
            raise DamagedError(f"{path.name} is damaged: its {key} are none")
    return values


def read_outputs(path: Path, values: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The SHA-256 of each output that a manifest names, ours or one like it.

    Raises:
        DamagedError: there are none such.
    """
    outputs = (read_json_object(path) if values is None else values).get("outputs")
    if not isinstance(outputs, dict) or not all(map(is_sha256, outputs.values())):
        raise DamagedError(f"{path.name} is damaged: it names no outputs with their SHA-256")
    return outputs


def _lies_in(folder: Path, relative: str) -> bool:
    """Whether a path as we write it leads to a place in ``folder``, through no link out of it."""
    pure = PurePosixPath(relative)
    if relative != pure.as_posix() or "\0" in relative or pure.is_absolute():
        return False
    if ".." in pure.parts or pure.parts[:1] in ((), ("archive",)) or len(relative) > 2000:
        return False
    try:
        if any(len(part.encode()) > 255 for part in pure.parts):
            return False
    except UnicodeEncodeError:
        return False
    return (folder / relative).parent.resolve().is_relative_to(folder.resolve())
