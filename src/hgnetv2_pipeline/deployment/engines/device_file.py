"""A file for phones and boards as its engine reads it: with its note, which has card and hashes."""

from __future__ import annotations

from pathlib import Path

from hgnetv2_pipeline.deployment.card import ModelCard, precision_file
from hgnetv2_pipeline.deployment.engines.base import Wish, choose_card
from hgnetv2_pipeline.durable import sha256_file
from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.foreign import foreign_file, parse_json


def note_of(path: Path) -> Path:
    """The note beside a file for devices.

    >>> note_of(Path("model.int8.pte")).name, note_of(Path("model.ncnn.bin")).name
    ('model.int8.pte.json', 'model.ncnn.json')
    """
    return path.with_name(path.name.removesuffix(".bin") + ".json")


def files_of(path: Path) -> list[Path]:
    """The files that make up the model: ncnn has its graph beside its weights."""
    weights = path.name.removesuffix(".ncnn.bin")
    return [path] if weights == path.name else [path, path.with_name(f"{weights}.ncnn.param")]


def open_device_file(wish: Wish) -> tuple[Path, ModelCard]:
    """The file of ``wish`` and its card, once it is known to be what was exported.

    Runtimes trust their files; a damaged one may end the process. Raises WeightsError.
    """
    assert wish.plan is not None  # the ladder has found it
    path, note = wish.plan, note_of(wish.plan)
    with foreign_file(note, WeightsError):
        said = parse_json(note.read_text(encoding="utf-8"))
        hashes = dict(said["files"])
        onnx = path.with_name(precision_file("fp32"))
        if onnx.is_file():
            hashes[onnx.name] = said["onnx_sha256"]
    for file in (*files_of(path), *([onnx] if onnx.is_file() else [])):
        if hashes.get(file.name) != sha256_file(file):
            raise WeightsError(
                f"{note} is of another {file.name} than the one beside it; export both by one "
                "command (kedro run --pipeline export --params export.target=...)"
            )
    return path, choose_card(
        lambda: ModelCard.from_folder(path.parent, note.name), wish.preprocess, wish.classes
    )
