"""What is reviewed: lists of images with what is known of each, and the decisions in review.csv."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from hgnetv2_pipeline.data.decisions import (
    ALLOWED,
    Decision,
    image_kinds,
    read_decisions,
    record_decision,
)
from hgnetv2_pipeline.data.index import read_image
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.printable import csv_cell, printable

_LARGEST = 768  # pixels of the longer side that are sent
_REMEMBERED = 256  # pictures


@dataclass(frozen=True)
class ReviewItem:
    """An image to decide of.

    Attributes:
        key: its key.
        shown: the class that it has on the list; empty where it is compared.
        suggested: another class that it may have.
        score: what the teacher was sure of it by, as text.
        about: what else is known, in words.
        twin: key of the picture that it is compared with.
    """

    key: str
    shown: str = ""
    suggested: str = ""
    score: str = ""
    about: str = ""
    twin: str = ""


@dataclass(frozen=True)
class ReviewList:
    """Images to decide of, in order.

    Attributes:
        name: of the list on the page.
        where: its name in review.csv.
        title, question: what people read.
        missing: how the list is made, where it is not there.
    """

    name: str
    where: str
    title: str
    question: str
    items: Sequence[ReviewItem] = ()
    missing: str = ""


@dataclass
class ReviewSession:
    """Lists, the images on them and nothing else, and the file of decisions.

    ``rows`` are samples (``data.index``) below ``root``: images of the lists and of ``examples``,
    keys of some training images by class. ``judge`` makes of all decisions (``read_decisions``)
    sentences about the mined list.
    """

    dataset: str
    classes: Sequence[str]
    lists: Sequence[ReviewList]
    rows: pd.DataFrame
    root: Path
    file: Path
    examples: Mapping[str, Sequence[str]] = field(default_factory=dict)
    judge: Callable[[pd.DataFrame], list[str]] = lambda decisions: []

    def __post_init__(self) -> None:
        self._numbers = {key: number for number, key in enumerate(self.rows["key"])}
        self._by_name = {one.name: one for one in self.lists}
        self._names = {str(csv_cell(name)): name for name in self.classes}
        self.picture = lru_cache(_REMEMBERED)(self._picture)

    def contents(self) -> dict[str, Any]:
        """All that the page shows but pictures and decisions; pictures by number."""
        return {
            "dataset": printable(self.dataset),
            "classes": [printable(name) for name in self.classes],
            "examples": {
                str(self.classes.index(name)): [self._numbers[key] for key in keys]
                for name, keys in self.examples.items()
            },
            "lists": [
                {
                    "name": one.name, "title": one.title, "question": one.question,
                    "missing": one.missing, "items": [self._item(item) for item in one.items],
                    "allowed": ALLOWED[one.where],
                }
                for one in self.lists
            ],
        }  # fmt: skip

    def _item(self, item: ReviewItem) -> dict[str, Any]:
        twin = {"twin": self._numbers[item.twin]} if item.twin else {}
        numbers = {
            name: self.classes.index(value)
            for name, value in (("shown", item.shown), ("suggested", item.suggested))
            if value
        }
        said = {"key": printable(item.key), "about": printable(item.about)}
        return {**said, **numbers, **twin, "picture": self._numbers[item.key]}

    def state(self) -> dict[str, Any]:
        """What is decided, by list and place: decision and number of the class; and the purity."""
        rows = read_decisions(self.file, self.classes)
        known = dict(
            zip(image_kinds(rows["list"], rows["key"]),
                rows[["decision", "label"]].itertuples(index=False), strict=True)
        )  # fmt: skip
        decided: dict[str, dict[int, list[Any]]] = {}
        for one in self.lists:
            cells = pd.Series([str(csv_cell(item.key)) for item in one.items], dtype="str")
            kinds = image_kinds(pd.Series(one.where, cells.index, dtype="str"), cells)
            decided[one.name] = {
                place: [said.decision, self._number(said.label)]
                for place, kind in enumerate(kinds)
                if (said := known.get(kind)) is not None and said.decision != "review"
            }
        return {"decided": decided, "judged": self.judge(rows)}

    def _number(self, cell: str) -> int | None:
        return self.classes.index(self._names[cell]) if cell else None

    def decide(self, request: Mapping[str, Any]) -> None:
        """Write a decision: list, place, decision, label, and ``was`` as the page showed it.

        Raises:
            ParameterError: the request is not understood.
            StaleDecisionError: it was decided elsewhere meanwhile.
            DataError: review.csv cannot be read or written.
        """
        one = self._by_name.get(str(request.get("list")))
        place = request.get("item")
        if one is None or type(place) is not int or not 0 <= place < len(one.items):
            raise ParameterError("no such image on the page")
        item = one.items[place]
        new, was = (self._decision(request.get(name)) for name in ("now", "was"))
        if new.decision not in ALLOWED[one.where]:
            raise ParameterError(f"a decision here is one of {', '.join(ALLOWED[one.where])}")
        row = {
            "list": one.where, "key": item.key, "shown": item.shown, "score": item.score,
            "label": new.label, "decision": new.decision,
        }  # fmt: skip
        record_decision(self.file, row, was)

    def _decision(self, said: Any) -> Decision:
        word, label = said if isinstance(said, list) and len(said) == 2 else (None, None)
        if not isinstance(word, str) or (word == "relabel") != (type(label) is int):
            raise ParameterError("a decision is a word, and the number of a class to relabel")
        if label is not None and not 0 <= label < len(self.classes):
            raise ParameterError("no such class")
        return Decision(word, self.classes[label] if label is not None else "")

    def _picture(self, number: int) -> bytes:
        """A picture of the page by its number, as PNG or, if it is large, smaller as JPEG.

        Raises:
            DataError: there is none of this number, or it cannot be read.
        """
        if not 0 <= number < len(self.rows):
            raise DataError("no such picture")
        image = read_image(self.rows.iloc[number], self.root)
        large = max(image.size) > _LARGEST
        image.thumbnail((_LARGEST, _LARGEST))
        out = io.BytesIO()
        image.save(out, "JPEG" if large else "PNG", quality=88)
        return out.getvalue()
