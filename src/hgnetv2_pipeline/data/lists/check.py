"""Whether the lists, indexes and class map of a dataset say the same."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

from hgnetv2_pipeline.data.classmap import read_class_map
from hgnetv2_pipeline.data.index import read_index
from hgnetv2_pipeline.data.lists.multi_label import is_multi_label, label_text
from hgnetv2_pipeline.data.lists.read import read_list
from hgnetv2_pipeline.errors import DataError

_LABELLED = ("train", "val", "test")


def check_lists(folder: Path) -> None:
    """Check the labelled lists that ingestion left in ``folder``.

    Raises:
        DataError: a list breaks the grammar, has a label that the class map does not name, differs
            from its index, or shares an image with another list.
    """
    classes = read_class_map(folder / "class_map.txt")
    lists = {}
    for name in _LABELLED:
        path = folder / f"{name}_list.txt"
        if path.is_file():
            index = read_index(folder / f"index_{name}.parquet")
            if len(index) == 0 and path.stat().st_size == 0:
                continue  # a set of which nothing was asked: data.split.val: 0
            several = is_multi_label(index)
            lists[name] = listed = read_list(path, num_classes=len(classes), multi_label=several)
            same = len(index) == len(listed) and (
                (index["key"].to_numpy() == listed["path"].to_numpy()).all()
                and (label_text(index).to_numpy() == label_text(listed).to_numpy()).all()
            )
            if not same:
                raise DataError(
                    f"{path}: differs from index_{name}.parquet beside it, which training and "
                    "evaluation read; change the images or data.* instead of the list, and run "
                    "kedro run --pipeline ingestion --params redo=ingestion"
                )
    for (name, one), (other, two) in combinations(lists.items(), 2):
        shared = set(one["path"]) & set(two["path"])
        if shared:
            raise DataError(
                f"{folder}: {min(shared)!r} is in {name}_list.txt and in {other}_list.txt "
                f"({len(shared):,} such images); an image belongs to one set"
            )
