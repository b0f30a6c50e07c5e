"""review.csv: the pairs a person should look at, and what that person decided."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from hgnetv2_pipeline.durable import write_text
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.printable import as_known, csv_frame

_log = logging.getLogger(__name__)

_DECISIONS = ("keep", "remove", "review")
# What no opinion can change: an image of val is an image of val.
_CERTAIN = ("bytes", "name")


def write_review(path: Path, dedup: pd.DataFrame) -> Path:
    """Write the undecided pairs to ``path``, for a person to set ``decision`` to keep or remove.

    ``dedup`` is the machine's opinion. Decisions a person already made in an earlier ``path``
    stay as they are, also when their pair is no longer in doubt.
    """
    rows = dedup[dedup["decision"] == "review"]
    if Path(path).is_file():
        decided = _of(dedup, read_review(path))
        decided = decided[decided["decision"] != "review"]
        settled = dedup[dedup["key"].isin(decided["key"])].drop(columns="decision")
        settled = decided.merge(settled, on="key", how="left")[list(dedup.columns)]
        rows = pd.concat([settled, rows[~rows["key"].isin(decided["key"])]])
    text = csv_frame(rows.sort_values("key")).to_csv(
        index=False, lineterminator="\n", float_format="%.4f"
    )
    return write_text(path, text)


def read_review(path: Path) -> pd.DataFrame:
    """Columns key, decision of an edited review.csv; DataError names the line that is wrong.

    The keys are as the file shows them, see ``printable.csv_cell``.
    """
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = {"key", "decision"} - set(rows.columns)
    if missing:
        raise DataError(f"{path} lacks the column {', '.join(sorted(missing))}")
    words = rows["decision"].str.strip().str.lower()
    for line, (key, word) in enumerate(zip(rows["key"], words, strict=True), start=2):
        if word not in _DECISIONS:
            raise DataError(
                f"{path} line {line}: decision {word!r} of {key}; write {', '.join(_DECISIONS)}"
            )
    twice = rows["key"][rows["key"].duplicated()]
    if len(twice):
        raise DataError(f"{path} lists {twice.iloc[0]} twice; keep one of the lines")
    return pd.DataFrame({"key": rows["key"], "decision": words})


def _of(dedup: pd.DataFrame, review: pd.DataFrame) -> pd.DataFrame:
    """``review`` with the keys of ``dedup``, which a CSV may show in another spelling."""
    known = as_known(review["key"], dedup["key"])
    # Of no rows pandas would make numbers.
    return review.assign(key=pd.Series(known, review.index, dtype=review["key"].dtype))


def apply_review(dedup: pd.DataFrame, review: pd.DataFrame) -> pd.DataFrame:
    """``dedup`` with a person's decisions in place of the machine's; ``review`` of read_review.

    What a person removes and the machine would not has the channel ``person``, also a key that
    ``dedup`` does not hold. An image with the bytes or the name of a protected one cannot be kept:
    DataError.
    """
    review = _of(dedup, review)
    decided = review[review["decision"] != "review"].set_index("key")["decision"]
    certain = dedup[dedup["channel"].isin(_CERTAIN)]
    for key in certain["key"]:
        if decided.get(key) == "keep":
            raise DataError(
                f"review: {key} is a protected image itself and cannot be kept; take its line out"
            )
    out = dedup.copy()
    out["decision"] = out["key"].map(decided).fillna(out["decision"])
    against = (out["decision"] == "remove") & (dedup["decision"] != "remove")
    out["channel"] = out["channel"].mask(against, "person")
    new = decided[~decided.index.isin(dedup["key"]) & (decided == "remove")]
    if len(new):
        added = pd.DataFrame({"key": new.index, "channel": "person", "decision": "remove"})
        numbers = {"distance": -1, "inliers": 0, "correlation": 0.0, "high_pass": 0.0}
        added = added.assign(val_key="", protected="", **numbers)
        out = pd.concat([out, added[list(dedup.columns)].astype(dedup.dtypes.to_dict())])
    _log.info("review: %d decisions of a person obeyed", len(decided))
    return out.sort_values("key", ignore_index=True)


def count_decisions(dedup: pd.DataFrame, review: pd.DataFrame) -> dict[str, int]:
    """What a person decided of the pairs in ``dedup``, which holds the machine's opinion.

    obeyed = kept + removed; changed: those where the machine had decided otherwise; waiting: pairs
    in doubt that nobody has decided. ``review`` is what ``read_review`` returns.
    """
    review = _of(dedup, review)
    decided = review[review["decision"] != "review"].set_index("key")["decision"]
    machine = dedup.set_index("key")["decision"]
    doubted = machine.index[machine == "review"]
    before = machine.reindex(decided.index)
    return {
        "obeyed": len(decided),
        "kept": int((decided == "keep").sum()),
        "removed": int((decided == "remove").sum()),
        "changed": int(((before != decided) & (before != "review")).sum()),
        "waiting": int((~doubted.isin(decided.index)).sum()),
    }
