"""Where a dataset's ``review.csv`` is, and what of it ingestion obeys."""

from __future__ import annotations

import shutil
from pathlib import Path

from hgnetv2_pipeline.project.identity import Identity


def review_file(identity: Identity) -> Path:
    """``01_raw/<dataset>/review.csv``: a person's word is raw data, whatever is made again."""
    path, old = identity.folder("raw") / "review.csv", identity.folder("mining") / "review.csv"
    if old.is_file() and not path.exists():
        # An earlier version kept it beside what it was made from.
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(old, path)
    return path


def provide_review(identity: Identity) -> None:
    """Write a ``review.csv`` without decisions where there is none: DVC needs one to watch."""
    path = review_file(identity)
    if path.exists():
        return
    from hgnetv2_pipeline.data.decisions import edited_decisions, read_decisions, write_decisions

    with edited_decisions(path):
        if not path.exists():
            write_decisions(path, read_decisions(path))


def label_edits(identity: Identity) -> dict[str, str]:
    """What a person changed of the labelled images, as an input of the lists; empty: nothing."""
    path = review_file(identity)
    if not path.is_file():
        return {}
    from hgnetv2_pipeline.data.decisions import read_decisions, relabelling

    text = relabelling(read_decisions(path))
    return {"review": text} if text else {}
