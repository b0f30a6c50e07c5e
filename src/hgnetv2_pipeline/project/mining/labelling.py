"""The images that a person should label next: a list, a contact sheet, copies of the files."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.printable import csv_frame
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.mining.scoring import score_images
from hgnetv2_pipeline.project.mining.selecting import (
    candidates,
    decided_pairs,
    exclusions,
    person_edits,
)
from hgnetv2_pipeline.project.params import LabelNextParams, MiningParams
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teaching.teacher import TeacherRecord

if TYPE_CHECKING:
    import pandas as pd

LIST, SHEET, COPIES = "label_next.csv", "label_next.png", "images"


def label_next_result(
    run: Run, params: LabelNextParams, mining: MiningParams, teacher: TeacherRecord, scores: Path,
    pairs: Path,
) -> ResultSpec:  # fmt: skip
    """What the result is to be."""
    return ResultSpec(
        folder=run.folder("label_next"),
        pipeline="label_next",
        inputs={
            "scores": scores,
            "dedup": pairs / "dedup.parquet",
            "teacher": teacher.record,
            **exclusions(run, mining),
            **({"review": edits} if (edits := person_edits(run)) else {}),
        },
        params={
            **params.model_dump(mode="json"),
            "strict": mining.deduplicate.strict,
            "seed": run.identity.seed,
        },
        outputs=[LIST, SHEET],
        beside=[COPIES],
    )


def write_label_next(
    aside: Path, run: Run, params: LabelNextParams, mining: MiningParams, teacher: TeacherRecord,
    scores: Path, pairs: Path,
) -> None:  # fmt: skip
    """Choose the images; write the list, the sheet, and the files in a folder per class."""
    from hgnetv2_pipeline.data.index import write_index
    from hgnetv2_pipeline.data.report import contact_sheet
    from hgnetv2_pipeline.mining import label_next

    known, raw, seed = Lists(run.folder("lists")), run.folder("raw"), run.identity.seed
    any_score = mining.model_copy(update={"min_conf": 0.0})
    doubtful = label_next.draw_doubtful(
        candidates(run, any_score, scores, decided_pairs(run, pairs)),
        label_next.DRAWN_PER_IMAGE * params.images,
        seed,
    )
    rows = pool_rows_of(known.index("pool"), doubtful["key"])
    index = write_index(aside / "doubtful.parquet", rows)
    score_images(run, mining, teacher, index, aside / "scores", features=True)
    chosen = label_next.choose_to_label(doubtful, aside / "scores", params.images, seed)
    guesses = [known.classes[label] for label in chosen["label"]]
    listed = chosen.assign(guess=guesses)[["key", "guess", "probability", "doubt", "stands_for"]]
    csv_frame(listed).to_csv(aside / LIST, index=False, float_format="%.4f")
    shown = rows.set_index("key").loc[chosen["key"]].reset_index()
    contact_sheet(shown, raw, captions=guesses).save(aside / SHEET)
    _copy_files(aside / COPIES, shown, raw, guesses)


def pool_rows_of(index: Path, keys: pd.Series) -> pd.DataFrame:
    """The rows of an index with these keys; the others are not held."""
    import pyarrow.dataset as ds

    found: pd.DataFrame = (
        ds.dataset(index).to_table(filter=ds.field("key").isin(keys.tolist())).to_pandas()
    )
    return found


def _copy_files(folder: Path, rows: pd.DataFrame, raw: Path, guesses: list[str]) -> None:
    """The files as they are, in a folder of the class that the teacher guesses, numbered."""
    from hgnetv2_pipeline.data.index import read_bytes

    row: Any
    for place, (row, guess) in enumerate(zip(rows.itertuples(index=False), guesses, strict=True)):
        name = re.sub(r"[^\w.-]+", "_", PurePosixPath(row.key).name)[-80:]
        path = folder / _folder_of(guess) / f"{place + 1:04d}_{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(read_bytes(row, raw))


def _folder_of(guess: str) -> str:
    """The class as the name of a folder: as it is, where it can be one."""
    name = re.sub(r"[/\\\0]", "_", guess)[:80]
    return "_" if name.strip(".") == "" else name
