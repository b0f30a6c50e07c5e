"""WebDataset shards: plain tars in which ``key.jpg`` has its class beside it, in ``key.cls``.

The class is a number or a name, or ``label`` or ``cls`` of a ``key.json``. Nothing is unpacked:
images are read where they are.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hgnetv2_pipeline.data.formats import claims_picture, is_passed_over
from hgnetv2_pipeline.data.lists.files import Fence
from hgnetv2_pipeline.data.scan.archives import ArchiveMember, index_archive, read_member
from hgnetv2_pipeline.data.scan.listing import Listing, refuse_unknown
from hgnetv2_pipeline.data.scan.walk import SPLIT_FOLDERS, UnopenedFile, Walk, natural, split_of
from hgnetv2_pipeline.errors import DataError

_CLASS_FILES = (".cls", ".json")
_LONGEST = 1 << 20


def find_shards(
    root: Path, parts: Sequence[str] = ("",), trusted: Sequence[Path] = ()
) -> list[str]:
    """The tars below ``root``, or below parts of it, that may be read, in order."""
    fence, found = Fence(root, trusted), []
    for part in parts:
        if part and (root / part).is_file():
            found.append(part)
            continue
        for where, folders, names in os.walk(root / part):
            folders[:] = sorted(name for name in folders if not is_passed_over(name))
            tars = (name for name in names if name.lower().endswith(".tar"))
            places = (Path(where) / name for name in tars if not is_passed_over(name))
            found += [
                place.relative_to(root).as_posix()
                for place in places
                if fence.why_unusable(str(place)) is None
            ]
    return sorted(found, key=natural)


def are_shards(root: Path, tars: Sequence[str]) -> bool:
    """Whether the first tar holds pictures with their classes beside them."""
    for tar in tars[:1]:
        names = [member.name for member in index_archive(root / tar).members]
        keys = {_key(name) for name in names if claims_picture(name, lambda: b"")}
        return any(name.endswith(_CLASS_FILES) and _key(name) in keys for name in names)
    return False


def split_of_shard(tar: str) -> str | None:
    """The split of a shard by its folder or by how its name starts (train-00000.tar)."""
    for part in tar.removesuffix(".tar").split("/"):
        start = re.match(r"[A-Za-z]+", part)
        if start and (split := split_of(start[0])):
            return split
    return None


def list_shards(
    root: Path,
    tars: Sequence[str],
    *,
    classes: Sequence[str] | None = None,
) -> Listing:
    """The images of these shards with their classes.

    Classes are numbers where every shard says so (``classes`` may name them), else names in natural
    order.

    Raises:
        DataError: no image has a class; a class that ``classes`` does not have.
    """
    walk = Walk(Fence(root))
    labelled: list[tuple[UnopenedFile, str]] = []
    for tar in tars:
        try:
            index = index_archive(root / tar)
        except DataError as error:
            walk.quarantine(tar, str(error))
            continue
        for unusable in index.refused:
            walk.quarantine(f"{tar}!{unusable.key}", unusable.reason)
        for member, label in _with_class(root / tar, index.members):
            key = f"{tar}!{member.name}"
            if label is None or not label.isprintable() or not label:
                why = "no class" if label is None else f"class {label!r}, which cannot be a name,"
                walk.quarantine(key, f"{why} beside it: a .cls or .json of the same name is needed")
            else:
                labelled.append((UnopenedFile(key, tar, member.offset, member.length), label))
    if not labelled:
        why = f": {walk.bad[0][0]}: {walk.bad[0][1]}" if walk.bad else ""
        raise DataError(f"{root}: no image of {len(tars):,} shards has a class{why}")
    known = {label for _, label in labelled}
    numbers = all(re.fullmatch(r"[0-9]{1,9}", label) for label in known)
    if numbers and (classes is None or not known <= set(classes)):
        names, number = classes, {label: int(label) for label in known}
        highest = max(number.values())
        if names is not None and highest >= len(names):
            raise DataError(f"{root}: class {highest} is outside the {len(names)} classes")
    else:
        names = list(classes) if classes is not None else sorted(known, key=natural)
        refuse_unknown(root, known, names)
        number = {name: label for label, name in enumerate(names)}
    found = [
        UnopenedFile(item.key, item.path, item.offset, item.length, number[label])
        for item, label in labelled
    ]
    return Listing(root, found, walk, list(names) if names is not None else None)


def _with_class(
    path: Path, members: Sequence[ArchiveMember]
) -> Iterator[tuple[ArchiveMember, str | None]]:
    """Each picture with the text of its class."""
    said: dict[str, str | None] = {}
    for member in members:
        if member.name.endswith(_CLASS_FILES) and member.length <= _LONGEST:
            content = read_member(path, member.offset, member.length)
            said.setdefault(_key(member.name), _class_said(member.name, content))
    for member in members:
        if any(map(is_passed_over, member.name.split("/"))):
            continue
        if claims_picture(member.name, lambda: b""):
            yield member, said.get(_key(member.name))


def _class_said(name: str, content: bytes) -> str | None:
    try:
        text = content.decode("utf-8").strip()
        if name.endswith(".json"):
            values = json.loads(text)
            found = [values[key] for key in ("label", "cls", "class") if key in values]
            return str(found[0]).strip() if found else None
    except (ValueError, TypeError):
        return None
    return text


def _key(name: str) -> str:
    """What the files of one sample share: the path up to the first dot of the file's name."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def shards_by_split(tars: Sequence[str]) -> dict[str, list[str]]:
    """The shards of each split; all of them train where their names say nothing."""
    found: dict[str, list[str]] = {split: [] for split in SPLIT_FOLDERS}
    for tar in tars:
        found[split_of_shard(tar) or "train"].append(tar)
    return {split: names for split, names in found.items() if names}
