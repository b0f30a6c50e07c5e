"""``review.csv``: what a person decided of images, a row per image; its one reader and writer.

``list`` says which list an image was judged on:

- ``duplicates``: a pool image that looks like one of train, val or test. keep: it is another
  picture, remove: it is a copy.
- ``mined``: a pool image with the class that the teacher gave it (``shown``, with the ``score``).
  keep: the class is right, relabel: it is of the class ``label``, remove: it is of none.
- ``labels``: a labelled image. keep: the label is right, relabel, remove.
- ``label_next``: a pool image that was proposed to be labelled. relabel, remove.

``review`` is no decision yet. A file without the column ``list`` is about duplicates.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hgnetv2_pipeline.data.lists.multi_label import images_per_class, is_multi_label
from hgnetv2_pipeline.data.quarantine import quarantine_frame
from hgnetv2_pipeline.durable import write_text
from hgnetv2_pipeline.errors import DataError, nearest
from hgnetv2_pipeline.printable import as_known, csv_cell, csv_frame, csv_value, printable

_log = logging.getLogger(__name__)

UNDECIDED = "review"
ALLOWED: Mapping[str, tuple[str, ...]] = {
    "duplicates": ("keep", "remove", UNDECIDED),
    "mined": ("keep", "remove", "relabel", UNDECIDED),
    "labels": ("keep", "remove", "relabel", UNDECIDED),
    "label_next": ("remove", "relabel", UNDECIDED),
}
"""What may be decided on each list."""
_OF_THE_POOL = ("mined", "label_next")
_TEXTS = ("label", "shown", "score")


@dataclass(frozen=True)
class Decision:
    """What is decided of an image, and the ``label`` where that is to relabel it."""

    decision: str = UNDECIDED
    label: str = ""


class StaleDecisionError(DataError):
    """Somebody else has decided of this image since it was shown."""

    def __init__(self, key: str, now: Decision) -> None:
        said = f"{now.decision} {now.label}".strip()
        super().__init__(f"{key} was decided elsewhere meanwhile: {said}")
        self.now = now


def read_decisions(path: Path, classes: Sequence[str] | None = None) -> pd.DataFrame:
    """All rows and columns of a review.csv as text; no rows where there is no such file.

    ``list`` and ``decision`` are as above, ``label``, ``shown`` and ``score`` may be empty. Keys
    and classes are as the file shows them, see ``printable.csv_cell``. With ``classes`` a ``label``
    has to be one of them.

    Raises:
        DataError: names the line that is wrong and what is allowed.
    """
    if not path.is_file():
        return pd.DataFrame({name: [] for name in ("list", "key", *_TEXTS, "decision")}, dtype=str)
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    missing = {"key", "decision"} - set(rows.columns)
    if missing:
        raise DataError(f"{path} lacks the column {', '.join(sorted(missing))}")
    if "list" not in rows:
        rows.insert(0, "list", "duplicates")
    rows = rows.assign(**{name: "" for name in _TEXTS if name not in rows})
    rows["decision"] = rows["decision"].str.strip().str.lower()
    rows["list"] = rows["list"].str.strip().str.lower().replace("", "duplicates")
    known = None if classes is None else {str(csv_cell(name)) for name in classes}
    for line, (where, key, word, label) in enumerate(
        rows[["list", "key", "decision", "label"]].itertuples(index=False), start=2
    ):
        if where not in ALLOWED:
            raise DataError(f"{path} line {line}: list {where!r}; write {', '.join(ALLOWED)}")
        if word not in ALLOWED[where]:
            raise DataError(
                f"{path} line {line}: decision {word!r} of {key}; write {', '.join(ALLOWED[where])}"
            )
        if (word == "relabel") != bool(label):
            raise DataError(
                f"{path} line {line}: a label belongs to relabel, and to it alone: {key}"
            )
        if known is not None and label and label not in known:
            some = ", ".join(sorted(known)[:20]) + (" ..." if len(known) > 20 else "")
            raise DataError(
                f"{path} line {line}: {label!r} of {key} is no class{nearest(label, known)}; "
                f"classes: {some}"
            )
    twice = rows[image_kinds(rows["list"], rows["key"]).duplicated()]
    if len(twice):
        raise DataError(f"{path} lists {twice['key'].iloc[0]} twice; keep one of the lines")
    return rows


def image_kinds(lists: pd.Series, keys: pd.Series) -> pd.Series:
    """What may be decided once: an image of the pool, its likeness, a labelled image."""
    return lists.replace(dict.fromkeys(_OF_THE_POOL, "pool")) + "\0" + keys


def write_decisions(path: Path, rows: pd.DataFrame) -> Path:
    """Write ``rows``, whose texts are as ``read_decisions`` gives them; the decision comes last."""
    ordered = rows.sort_values(["list", "key"], kind="stable").map(csv_value)
    names = ["list", *(name for name in ordered if name not in ("list", "decision", *_TEXTS))]
    ordered = ordered[[*names, "shown", "score", "label", "decision"]]
    return write_text(path, csv_frame(ordered).to_csv(index=False, lineterminator="\n"))


@contextmanager
def edited_decisions(path: Path) -> Iterator[None]:
    """Be the only one, among threads and processes, that reads review.csv to write it again."""
    with (path.parent / f".{path.name}.guard").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def record_decision(path: Path, row: Mapping[str, str], was: Decision) -> None:
    """Write one decision at once, in its place in review.csv.

    ``row`` has list, key, decision, label, shown and score. ``was`` is what the person saw.

    Raises:
        StaleDecisionError: the file says another thing than ``was``; nothing is written.
        DataError: the file cannot be read.
    """
    cells = {name: str(csv_cell(value)) for name, value in row.items()}
    with edited_decisions(path):
        rows = read_decisions(path)
        one = pd.DataFrame([cells])
        kind = image_kinds(one["list"], one["key"]).iloc[0]
        same = image_kinds(rows["list"], rows["key"]) == kind
        old = rows[same]
        now = Decision(*old[["decision", "label"]].iloc[0]) if len(old) else Decision()
        if now != Decision(was.decision, str(csv_cell(was.label))):
            raise StaleDecisionError(printable(row["key"]), now)
        kept = rows[~same]
        undone = cells["decision"] == UNDECIDED
        more = pd.DataFrame() if undone else pd.DataFrame([{**_first(old), **cells}])
        write_decisions(path, pd.concat([kept, more]).fillna(""))


def _first(rows: pd.DataFrame) -> dict[str, str]:
    return {} if rows.empty else {str(name): text for name, text in rows.iloc[0].items()}


def decisions_on(
    rows: pd.DataFrame, lists: Sequence[str], known: Sequence[str] | None = None
) -> pd.DataFrame:
    """What was decided on these lists; keys among ``known`` as they are there."""
    found = rows[rows["list"].isin(lists) & (rows["decision"] != UNDECIDED)]
    if known is None:
        return found
    return found.assign(key=pd.Series(as_known(found["key"], known), found.index, dtype="str"))


def relabelling(rows: pd.DataFrame) -> str:
    """What of ``rows`` changes the labelled images, as text: empty where nothing does."""
    found = decisions_on(rows, ("labels", *_OF_THE_POOL))
    of_labels = found["list"] == "labels"
    changes = found[
        (found["decision"] == "relabel") | (of_labels & (found["decision"] == "remove"))
    ]
    decided = changes.sort_values(["list", "key"])[["list", "key", "decision", "label"]]
    return "\n".join(map("\0".join, decided.itertuples(index=False)))


def obey_labels(
    sets: Mapping[str, pd.DataFrame], rows: pd.DataFrame, classes: Sequence[str]
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Train, val and test with the labels that a person gave, and without what was removed.

    Returns the sets, and what was removed: columns key, reason, line.

    Raises:
        DataError: of images of several labels one was relabelled.
    """
    obeyed = dict(sets)
    removed: list[tuple[str, str, int | None]] = []
    for name in (name for name in ("train", "val", "test") if name in sets):
        frame = sets[name]
        found = decisions_on(rows, ("labels",), frame["key"].tolist()).set_index("key")
        found = found[found.index.isin(frame["key"])]
        new = _numbers(found[found["decision"] == "relabel"]["label"], classes)
        if len(new) and is_multi_label(frame):
            raise DataError(f"review.csv relabels {new.index[0]}, an image of several labels")
        label = frame["key"].map(new).astype("Int64").fillna(frame["label"])
        gone = found.index[found["decision"] == "remove"]
        obeyed[name] = frame.assign(label=label)[~frame["key"].isin(gone)].reset_index(drop=True)
        removed += [(key, "removed by a person (review.csv)", None) for key in sorted(gone)]
        if len(new) or len(gone):
            _log.info("%s: %d labels changed and %d images removed by a person", name, len(new),
                      len(gone))  # fmt: skip
    return obeyed, quarantine_frame(removed)


def move_labelled(
    sets: Mapping[str, pd.DataFrame], rows: pd.DataFrame, classes: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """The sets with the pool images that a person gave a class in train, and no longer in the pool.

    Raises:
        DataError: such an image has the bytes of one of val or test.
    """
    if "pool" not in sets:
        return dict(sets)
    pool = sets["pool"]
    found = decisions_on(rows, _OF_THE_POOL, pool["key"].tolist()).set_index("key")
    labels = _numbers(found[found["decision"] == "relabel"]["label"], classes)
    chosen = pool["key"].isin(labels.index)
    if not chosen.any():
        return dict(sets)
    moved = pool[chosen].assign(label=pool["key"][chosen].map(labels).astype("Int64"))
    for name in (name for name in ("val", "test") if name in sets):
        same = moved[moved["bytes_sha256"].isin(sets[name]["bytes_sha256"])]
        if len(same):
            raise DataError(
                f"review.csv: {same['key'].iloc[0]} has the same bytes as an image of {name} and "
                "cannot be trained on; take its line out"
            )
    _log.info("%d images of the pool that a person labelled are in train", len(moved))
    train = pd.concat([sets["train"], moved[sets["train"].columns]], ignore_index=True)
    return {**sets, "train": train, "pool": pool[~chosen].reset_index(drop=True)}


def refuse_lost_classes(before: pd.DataFrame, after: pd.DataFrame, classes: Sequence[str]) -> None:
    """Refuse a train set in which a class of ``before`` has no image ``after`` the decisions.

    Raises:
        DataError: names the class and the ways out.
    """
    had, has = (images_per_class(frame, len(classes)) for frame in (before, after))
    lost = [name for name, one, other in zip(classes, had, has, strict=True) if one and not other]
    if lost:
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise DataError(
            f"review.csv leaves class {lost[0]!r}{more} without an image in train; undo some of "
            "its decisions (hgnetv2 review), give the class to images of the pool there, or take "
            "the class out of the labelled images"
        )


def _numbers(names: pd.Series, classes: Sequence[str]) -> pd.Series:
    """Classes by name, as a review.csv has it, to their numbers."""
    return names.map({str(csv_cell(name)): number for number, name in enumerate(classes)})
