"""What a person may review of a dataset: pairs, mined images, suspected labels, proposals."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.printable import as_known
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.ingestion.reviewed import review_file
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.mining.labelling import LIST as PROPOSED
from hgnetv2_pipeline.project.teaching.label_errors import LIST as DOUBTED
from hgnetv2_pipeline.serving.review.session import ReviewItem, ReviewList, ReviewSession

if TYPE_CHECKING:
    import pandas as pd

SAMPLE, PER_CLASS, LABELS = 300, 50, 1000
"""Images shown: of the random sample, doubtful ones of each class, suspected labels."""
_EXAMPLES = 3


def review_session(identity: Identity) -> ReviewSession:
    """Everything there is to review now; lists that were not made yet say how.

    Raises:
        DataError: there are no lists of images, or they have several labels per image.
    """
    import pandas as pd

    known = Lists(identity.folder("lists"))
    classes = known.classes
    if known.multi_label:
        raise DataError("hgnetv2 review is for images of one label each, not several")
    train = known.frame("train")
    labelled = pd.concat([known.frame(name) for name in known.guarded], ignore_index=True)
    mined = _read_mined(identity)
    keys = set(labelled["key"])
    found = {
        "duplicates": _pairs(identity, keys),
        "sample": _sample(mined, classes),
        "mined": _doubtful(mined, classes),
        "labels": _labels(identity, classes, keys),
        "label_next": _proposals(identity, classes),
    }
    wanted = {item.key for items in found.values() for item in items}
    pool = _pool_rows(known, wanted - keys)
    there = keys | set(pool["key"])
    examples = {
        name: train.loc[train["label"] == label, "key"].head(_EXAMPLES).tolist()
        for label, name in enumerate(classes)
    }
    lists = [
        ReviewList(name, where, title, question, [one for one in found[name] if one.key in there],
                   _missing(identity, name))
        for name, where, title, question in _LISTS
    ]  # fmt: skip
    shown = {item.key for one in lists for item in one.items}
    shown |= {item.twin for one in lists for item in one.items}
    shown |= {key for keys_of in examples.values() for key in keys_of}
    rows = pd.concat([labelled, pool], ignore_index=True)
    return ReviewSession(
        dataset=identity.dataset,
        classes=classes,
        lists=lists,
        rows=rows[rows["key"].isin(shown)].reset_index(drop=True),
        root=identity.folder("raw"),
        file=review_file(identity),
        examples=examples,
        judge=lambda decisions: _judge(mined, decisions),
    )


_LISTS = (
    ("duplicates", "duplicates", "Doubtful duplicates",
     "Does the image of the pool show the same picture as the protected one beside it?"),
    ("sample", "mined", "Mined, at random",
     "Is the class right? In this order the mined images are a random sample: judged from the "
     "first on, without a gap, they tell how pure the list is."),
    ("mined", "mined", "Mined, doubtful first",
     "Is the class right? These are the mined images of each class that the teacher is least sure "
     "of."),
    ("labels", "labels", "Suspected label errors",
     "Is the label right? Classifiers that had not seen the image say otherwise."),
    ("label_next", "label_next", "To label next",
     "Which class is it? Images of the pool whose labels would help most."),
)  # fmt: skip
_MADE_BY = {"labels": "label_errors", "label_next": "label_next"}


def _missing(identity: Identity, name: str) -> str:
    pipeline = _MADE_BY.get(name, "mining")
    return f"Nothing to review here. {identity.run_command} --pipeline {pipeline} makes the list."


def _read_mined(identity: Identity) -> pd.DataFrame:
    """Columns key, label, score of the mined list; no rows where there is none."""
    import pandas as pd

    path = identity.folder("mining") / "mined.parquet"
    if not path.is_file():
        return pd.DataFrame({"key": pd.Series(dtype="str"), "label": [], "score": []})
    return pd.read_parquet(path, columns=["key", "label", "score"])


def _judge(mined: pd.DataFrame, decisions: pd.DataFrame) -> list[str]:
    from hgnetv2_pipeline.mining.judged import judged_purity, judgement_in_words

    return judgement_in_words(judged_purity(mined, decisions))


def _pairs(identity: Identity, protected: set[str]) -> list[ReviewItem]:
    """The pairs that mining leaves to a person."""
    import pandas as pd

    path = identity.folder("mining") / "dedup.parquet"
    if not path.is_file():
        return []
    pairs = pd.read_parquet(path)
    doubted = pairs[(pairs["decision"] == "review") & pairs["val_key"].isin(protected)]
    return [
        ReviewItem(
            row.key, twin=row.val_key,
            about=f"{row.channel}: {row.distance} bits apart, correlation {row.correlation:.3f}; "
            f"the other is {row.val_key} of {row.protected}",
        )
        for row in _rows(doubted.sort_values("correlation", ascending=False))
    ]  # fmt: skip


def _sample(mined: pd.DataFrame, classes: list[str]) -> list[ReviewItem]:
    from hgnetv2_pipeline.mining.judged import random_order

    return _mined_items(mined.iloc[random_order(mined["key"])[:SAMPLE]], classes)


def _doubtful(mined: pd.DataFrame, classes: list[str]) -> list[ReviewItem]:
    ordered = mined.sort_values(["score", "key"])
    return _mined_items(ordered.groupby("label", sort=False).head(PER_CLASS), classes)


def _mined_items(rows: pd.DataFrame, classes: list[str]) -> list[ReviewItem]:
    return [
        ReviewItem(
            row.key, shown=classes[int(row.label)], score=f"{row.score:.4f}",
            about=f"the teacher gives this class {row.score:.1%}",
        )
        for row in _rows(rows)
    ]  # fmt: skip


def _labels(identity: Identity, classes: list[str], keys: set[str]) -> list[ReviewItem]:
    rows = _read_csv(identity.folder("label_errors") / DOUBTED, classes, ("given", "suggested"))
    if rows is None:
        return []
    rows = rows.head(LABELS).assign(key=as_known(rows["key"].head(LABELS), keys))
    return [
        ReviewItem(
            row.key, shown=row.given, suggested=row.suggested, score=row.score,
            about=f"rank {row.rank}, of {row.set}: held out, it looks like {row.suggested}; its "
            f"label got {1 - float(row.score):.1%}",
        )
        for row in _rows(rows)
    ]  # fmt: skip


def _proposals(identity: Identity, classes: list[str]) -> list[ReviewItem]:
    rows = _read_csv(identity.folder("label_next") / PROPOSED, classes, ("guess",))
    if rows is None:
        return []
    return [
        ReviewItem(
            row.key, shown=row.guess, score=row.probability,
            about=f"the teacher's guess, {float(row.probability):.1%}; it represents "
            f"{row.stands_for} doubtful images of its kind",
        )
        for row in _rows(rows)
    ]  # fmt: skip


def _read_csv(path: Path, classes: list[str], names: tuple[str, ...]) -> pd.DataFrame | None:
    """A list of ours as text, with classes as they are; None where it is not there."""
    import pandas as pd

    if not path.is_file():
        return None
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows = rows.assign(**{name: as_known(rows[name], classes) for name in names})
    # Of a run with other classes nothing is left.
    return rows[rows[list(names)].isin(classes).all(axis=1)]


def _rows(frame: pd.DataFrame) -> Iterable[Any]:
    return frame.itertuples(index=False)


def _pool_rows(known: Lists, keys: set[str]) -> pd.DataFrame:
    """The rows of the pool's index with these keys, of which a CSV may show another spelling."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    if not known.has("pool"):
        return known.frame("train").head(0)
    wanted = ds.field("key").isin(pa.array(sorted(keys), pa.string()))
    found: pd.DataFrame = ds.dataset(known.index("pool")).to_table(filter=wanted).to_pandas()
    return found
