"""The pictures and the table of mistakes, as files that a person and the report can open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hgnetv2_pipeline.durable import sha256_file, sha256_json
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.printable import csv_frame

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from hgnetv2_pipeline.evaluation.activation_maps import ActivationMaps
    from hgnetv2_pipeline.evaluation.mistakes import SeenImages

SIDE = 112  # pixels of the longer side of a picture, at most
SHEET = "sheet.png"


def mistake_records(
    mistakes: pd.DataFrame,
    classes: Sequence[str],
    samples: pd.DataFrame,
    train: pd.DataFrame,
    nearest: Sequence[tuple[str, float] | None],
) -> list[dict[str, Any]]:
    """Mistakes (``confident_mistakes``) with names in place of numbers, and where the files are.

    ``samples`` and ``train`` are the frames of the evaluated and of the training images, indexed by
    key; ``nearest`` has for each mistake the key of a training image and its cosine.
    """
    records = []
    for place, row in enumerate(mistakes.to_dict("records")):
        record: dict[str, Any] = {
            "number": place + 1,
            "key": row["key"],
            "path": str(samples["path"][row["key"]]),
            "true": [classes[label] for label in row["labels"]],
            "about": classes[row["about"]],
            "said": bool(row["said"]),
            "score": float(row["score"]),
            "nearest": None,
        }
        if (other := nearest[place]) is not None:
            key, cosine = other
            record["nearest"] = {
                "key": key,
                "path": str(train["path"][key]),
                "true": [classes[label] for label in _labels_of(train, key)],
                "cosine": cosine,
            }
        records.append(record)
    return records


def _labels_of(frame: pd.DataFrame, key: str) -> list[int]:
    """The numbers of the classes that an image belongs to."""
    from hgnetv2_pipeline.data.index import LABELS

    if LABELS in frame.columns:
        return [int(label) for label in np.flatnonzero(frame[LABELS][key])]
    return [int(frame["label"][key])]


def write_mistake_pictures(
    folder: Path,
    records: Sequence[dict[str, Any]],
    samples: pd.DataFrame,
    train: pd.DataFrame,
    root: Path,
    explained: tuple[SeenImages, ActivationMaps] | None,
) -> str:
    """Write the pictures of each record into ``folder`` and name them in it (``files``).

    ``NN-picture.jpg`` is the whole image, ``NN-map.jpg`` what the network saw of it with its
    activation map (where ``explained`` has one), ``NN-nearest.jpg`` the training image; and
    ``sheet.png`` shows mistakes and nearest images in pairs. A picture that cannot be read is left
    out.

    Returns:
        One SHA-256 of all of these pictures but the sheet.
    """
    from PIL import Image

    from hgnetv2_pipeline.data.index import read_image
    from hgnetv2_pipeline.evaluation.activation_maps import overlay

    folder.mkdir(parents=True)
    at = {key: place for place, key in enumerate(explained[0].keys)} if explained else {}
    for record in records:
        files = record["files"] = {}
        sources = [("picture", samples, record["key"])]
        if record["nearest"]:
            sources.append(("nearest", train, record["nearest"]["key"]))
        for name, frame, key in sources:
            try:
                image = read_image(frame.loc[key], root)
            except DataError:
                continue
            files[name] = _save(image, folder, record["number"], name)
        if explained and record["key"] in at:
            place = at[record["key"]]
            view = overlay(explained[0].views[place], explained[1].maps[place])
            files["map"] = _save(Image.fromarray(view), folder, record["number"], "map")
    if records:
        _sheet(records, samples, train, root).save(folder / SHEET)
    return sha256_json([sha256_file(path) for path in sorted(folder.glob("*.jpg"))])


def _save(image: Image.Image, folder: Path, number: int, name: str) -> str:
    """A JPEG of at most ``SIDE`` pixels a side; a smaller image keeps its pixels."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    file = f"{number:02d}-{name}.jpg"
    small.save(folder / file, "JPEG", quality=80)
    return file


def _sheet(
    records: Sequence[dict[str, Any]], samples: pd.DataFrame, train: pd.DataFrame, root: Path
) -> Image.Image:
    """Each mistake with its answer below it, followed by the nearest training image."""
    import pandas as pd

    from hgnetv2_pipeline.data.index import DECODED_BY, SCHEMA
    from hgnetv2_pipeline.data.report import contact_sheet

    rows, captions = [], []
    known = [*SCHEMA, DECODED_BY]
    for record in records:
        said = record["about"] if record["said"] else f"not {record['about']}"
        pairs = [(samples, record["key"], f"{'+'.join(record['true']) or 'none'}: {said}")]
        if other := record["nearest"]:
            pairs.append((train, other["key"], f"train: {'+'.join(other['true'])}"))
        for frame, key, caption in pairs:
            rows.append(frame.loc[[key], [name for name in known if name in frame.columns]])
            captions.append(caption)
    return contact_sheet(pd.concat(rows), root, 8, 96, captions)


def write_mistake_table(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """The records as a CSV, one row per mistake, for a person."""
    import pandas as pd

    columns = [
        "number", "image", "file", "true", "answer", "probability", "nearest_training_image",
        "nearest_file", "nearest_class", "cosine", "pictures",
    ]  # fmt: skip
    table = []
    for record in records:
        other = record["nearest"] or {"key": "", "path": "", "true": [], "cosine": np.nan}
        table.append(
            [
                record["number"], record["key"], record["path"], "+".join(record["true"]),
                record["about"] if record["said"] else f"not {record['about']}",
                round(record["score"], 6), other["key"], other["path"], "+".join(other["true"]),
                round(other["cosine"], 6), " ".join(sorted(record["files"].values())),
            ]
        )  # fmt: skip
    csv_frame(pd.DataFrame(table, columns=columns)).to_csv(path, index=False)
