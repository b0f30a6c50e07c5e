"""ImageNet-1k's classes, which the published weights know and do not name."""

from __future__ import annotations

import functools
from collections.abc import Sequence

COUNT = 1000


@functools.cache
def _names() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """WordNet ids and names, in the order of the labels (that of the sorted ids)."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return (
        tuple(info.label_names()),
        tuple(info.index_to_description(index) for index in range(COUNT)),
    )


def imagenet_classes() -> list[str]:
    """The 1000 names in the order of the labels: 'tench, Tinca tinca', ...

    They are WordNet's, as PaddleClas prints them. 'crane' is there twice (134 the bird, 517 the
    machine): a name does not say which class it is, its place does.
    """
    return list(_names()[1])


def synsets() -> list[str]:
    """The 1000 WordNet ids in the order of the labels: 'n01440764', ..."""
    return list(_names()[0])


def agree(known: Sequence[str] | None, given: Sequence[str]) -> bool:
    """Whether weights that know the classes ``known`` may answer for the classes ``given``.

    Weights without names fit whatever has as many classes. Published weights know ImageNet's names
    (or ids), and lists of ImageNet may call its classes by ids, by names, by 'id name', or by
    number alone: that is the same order in four spellings. Any other difference is one.
    """
    if known is None or list(known) == list(given):
        return True
    if len(known) != COUNT or len(given) != COUNT:
        return False
    ids, names = _names()
    spellings = (
        ids,
        names,
        tuple(f"{ident} {name}" for ident, name in zip(ids, names, strict=True)),
    )
    numbers = tuple(str(label) for label in range(COUNT))
    return tuple(known) in spellings and tuple(given) in (*spellings, numbers)
