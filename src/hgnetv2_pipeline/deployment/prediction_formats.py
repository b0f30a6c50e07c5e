"""Records as text: the two line formats of the PP-HGNetV2 page, CSV and JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.deployment.predict import Record
from hgnetv2_pipeline.durable import written_aside
from hgnetv2_pipeline.errors import ParameterError


def format_infer(records: Iterable[Record]) -> str:
    """The page's section 2.5 (``tools/infer.py``): one Python list of dicts, scores to 5 decimals.

    A bad input's dict has empty lists and a fifth entry, ``error``.
    """
    rows: list[dict[str, Any]] = []
    for record in records:
        row: dict[str, Any] = {
            "class_ids": record["class_ids"],
            "scores": [round(score, 5) for score in record["scores"]],
            "file_name": record["file_name"],
            "label_names": record["label_names"],
        }
        if "error" in record:
            row["error"] = record["error"]
        rows.append(row)
    return repr(rows)


def format_predict_cls(record: Record) -> str:
    """The page's section 3.2 (``predict_cls.py``): one line, base name, scores to 2 decimals."""
    name = Path(record["file_name"]).name
    if "error" in record:
        return f"{name}:    error: {record['error']}"
    scores = ", ".join(f"{score:.2f}" for score in record["scores"])
    return (
        f"{name}:    class id(s): {record['class_ids']}, score(s): [{scores}], "
        f"label_name(s): {record['label_names']}"
    )


def write_predictions_csv(path: Path, records: Iterable[Record], *, topk: int) -> Path:
    """A row an input: ``file_name, error``, then ``id, score, label`` of each of ``topk`` ranks."""
    if topk < 1:
        raise ParameterError(f"topk={topk}; it must be at least 1")
    ranks = range(1, topk + 1)
    header = [f"{what}_{rank}" for rank in ranks for what in ("id", "score", "label")]
    with (
        written_aside(path) as aside,
        aside.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file_name", "error", *header])
        for record in records:
            answers = zip(record["class_ids"], record["scores"], record["label_names"], strict=True)
            cells = [cell for answer in answers for cell in answer][: 3 * topk]
            padding = [""] * (3 * topk - len(cells))
            writer.writerow([record["file_name"], record.get("error", ""), *cells, *padding])
    return Path(path)


def write_predictions_jsonl(path: Path, records: Iterable[Record]) -> Path:
    """One JSON object a line, the record as it is (full precision, ``error`` for a bad input)."""
    with written_aside(path) as aside, aside.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return Path(path)
