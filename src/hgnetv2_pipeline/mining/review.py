"""A person's decisions of pool images, obeyed: pairs that look alike, and what was mined."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from hgnetv2_pipeline.data.decisions import decisions_on, read_decisions
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.printable import as_known

_log = logging.getLogger(__name__)

# What no opinion can change: an image of val is an image of val.
_CERTAIN = ("bytes", "name")


def read_review(path: Path) -> pd.DataFrame:
    """Columns key, decision: what a review.csv says of whether pool images may be mined.

    ``remove`` on any list of the pool's counts, ``keep`` and ``review`` where pairs are compared.
    The keys are as the file shows them, see ``printable.csv_cell``. Raises ``DataError``.
    """
    rows = read_decisions(path)
    pairs = rows[rows["list"] == "duplicates"]
    gone = decisions_on(rows, ["mined", "label_next"])
    gone = gone[gone["decision"] == "remove"]
    both = pd.concat([pairs[~pairs["key"].isin(gone["key"])], gone])
    return both[["key", "decision"]].reset_index(drop=True)


def read_kept(path: Path, classes: list[str]) -> pd.DataFrame:
    """Columns key, label: the mined images of which a person said that their class is right."""
    found = decisions_on(read_decisions(path, classes), ["mined"])
    found = found[found["decision"] == "keep"]
    numbers = {name: number for number, name in enumerate(classes)}
    labels = [numbers.get(name, -1) for name in as_known(found["shown"], classes)]
    return pd.DataFrame({"key": found["key"].to_numpy(), "label": labels})


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
