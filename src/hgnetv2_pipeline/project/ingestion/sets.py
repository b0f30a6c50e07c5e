"""From folders of images to the sets of a dataset, with an account of every image."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.durable import write_json
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.printable import csv_frame
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.ingestion.levels import choose_depth
from hgnetv2_pipeline.project.ingestion.places import name_parameter, relative_to_raw
from hgnetv2_pipeline.project.ingestion.pool import merge_scans, read_pool, write_sources
from hgnetv2_pipeline.project.ingestion.reviewed import review_file
from hgnetv2_pipeline.project.ingestion.sources import is_split, labelled_place
from hgnetv2_pipeline.project.ingestion.tones import note_tones
from hgnetv2_pipeline.project.ingestion.transparency import note_transparency
from hgnetv2_pipeline.project.lists import count_rows
from hgnetv2_pipeline.project.params import DataParams

if TYPE_CHECKING:
    import pandas as pd

    from hgnetv2_pipeline.data.decode import Decoding
    from hgnetv2_pipeline.data.quarantine import Ledger
    from hgnetv2_pipeline.data.scan.folders import Scan
    from hgnetv2_pipeline.data.scan.layouts import Layout, Place

_log = logging.getLogger(__name__)
ARRANGEMENT = "layout.json"
# Where the images are, and what changes how long a scan takes or whether it is refused.
NOT_OF_THE_LISTS = {"root", "pool", "test", "trusted_roots", "workers", "max_bad", "list_root"}
# What of them says how the images are arranged: what that comes to is in the layout.
_OF_THE_LAYOUT = {"layout", "lists", "delimiter", "columns", "class_from"}
# What lists are called where nothing is said of them.
_USUAL_LISTS = {split: f"{split}_list.txt" for split in ("train", "val", "test")}


def list_files(sets: list[str]) -> list[str]:
    """The files that ingestion leaves in the folder of lists, for these sets."""
    return [
        "class_map.txt",
        "leaks.csv",
        "quarantine.csv",
        *(f"index_{name}.parquet" for name in sets),
        *(f"{name}_list.txt" for name in sets),
        *(["pool_sources.json"] if "pool" in sets else []),
    ]


def arrangement(data: DataParams, layout: Layout) -> dict[str, Any]:
    """What was assumed of how the images are arranged, for people to read."""
    return {
        "layout": layout.name,
        "why": layout.why if data.layout == "auto" else f"data.layout = {layout.name}",
        "sets": list(layout.sets),
        "divided": is_split(layout),
        "lists": {**layout.lists, **({"class_map": layout.class_map} if layout.class_map else {})},
        "class_from": layout.class_from,
    }


def decides_lists(data: DataParams, layout: Layout) -> dict[str, Any]:
    """The parameters by which other lists are made, as JSON values.

    Of the layout what is not as always, so that lists made before one could choose are the same.
    """
    values = data.model_dump(mode="json", exclude=NOT_OF_THE_LISTS | _OF_THE_LAYOUT)
    values["layout"] = layout.name
    usual = {split: _USUAL_LISTS[split] for split in layout.lists}
    if dict(layout.lists) != usual:
        values["lists"] = dict(layout.lists)
    if layout.class_map not in (None, "class_map.txt"):
        values["class_map"] = layout.class_map
    if layout.class_from != "first":
        values["class_from"] = layout.class_from
    if layout.delimiter != "auto":
        values["delimiter"] = layout.delimiter
    columns = {role: name for role, name in asdict(layout.columns).items() if name is not None}
    if columns:
        values["columns"] = columns
    if data.alpha == "drop":
        # Lists that were made before one could choose are still the same.
        del values["alpha"]
    if data.depth == "auto":
        del values["depth"]
    return values


def write_lists(
    aside: Path,
    identity: Identity,
    data: DataParams,
    raw: Path,
    sets: list[str],
    layout: Layout,
) -> None:
    """Scan, split where that is asked for, clean, and write indexes, lists and what was left out.

    Every image that was found is in a list, or in ``quarantine.csv`` with its reason.
    """
    import pandas as pd

    from hgnetv2_pipeline.data import classmap, index
    from hgnetv2_pipeline.data.decisions import (
        move_labelled,
        obey_labels,
        read_decisions,
        refuse_lost_classes,
    )
    from hgnetv2_pipeline.data.decode import Decoding, background_of
    from hgnetv2_pipeline.data.leaks import clean_sets, find_leaks, report_leaks
    from hgnetv2_pipeline.data.split import split_samples

    scans = _scan(identity, data, raw, layout)
    pool = read_pool(identity, data, raw)
    every = [*scans.values(), *pool.values()]
    note_transparency(aside, identity, data, every)
    note_tones(aside, scans["images"], list(pool.values()))
    depth = choose_depth(aside, identity, data, every)
    if pool:
        scans["pool"] = merge_scans(list(pool.values()))
    ledgers = {name: scan.ledger(data.max_bad) for name, scan in scans.items()}
    _check(ledgers.values(), identity)
    classes = scans["images"].classes
    if not classes:
        raise DataError(f"{data.root}: no classes found (data.root, data.layout)")
    frames = {name: scan.samples for name, scan in scans.items() if name != "images"}
    if is_split(layout):
        labelled = scans["images"]
        frames = (
            split_samples(
                labelled.samples,
                val=data.split.val,
                test=0.0 if "test" in frames else data.split.test,
                seed=identity.seed,
                group_pattern=data.split.group_pattern,
                groups=_read_groups(identity, data, labelled.samples),
                near_duplicates=labelled.phash if data.split.near_duplicates else None,
                classes=classes,
            )
            | frames
        )
    else:
        frames["train"] = scans["images"].samples
    left_out = [
        frame.assign(set=name, fate=fate)
        for name, scan in scans.items()
        for fate, frame in (("quarantined", scan.quarantined), ("refused", scan.refused))
    ]
    hashes = _hashes(scans)
    decisions = read_decisions(review_file(identity), classes)
    as_given = frames["train"]
    frames, removed = obey_labels(frames, decisions, classes)
    leaks = find_leaks(frames, hashes)
    if data.leaks == "clean":
        frames, refused = clean_sets(frames, leaks, classes)
        removed = pd.concat([removed, refused], ignore_index=True)
        leaks = find_leaks(frames, hashes)
    else:
        report_leaks(leaks, refuse=data.leaks == "refuse")
    for name, scan in scans.items():
        own = removed[removed["key"].isin(scan.samples["key"])]
        left_out.append(own.assign(set=name, fate="refused"))
        for key, reason in own[["key", "reason"]].itertuples(index=False):
            ledgers[name].refuse(key, reason)
    frames = move_labelled(frames, decisions, classes)
    refuse_lost_classes(as_given, frames["train"], classes)
    if layout.name != "multi_label":
        _report_absent(frames, classes)
    decoding = Decoding(background=background_of(data.alpha), depth=depth)
    frames = {name: index.with_decoding(frame, decoding) for name, frame in frames.items()}
    classmap.write_class_map(aside / "class_map.txt", classes)
    write_json(aside / ARRANGEMENT, arrangement(data, layout))
    for name in sets:
        index.write_index(aside / f"index_{name}.parquet", frames[name])
        _write_list(aside / f"{name}_list.txt", frames[name])
    if pool:
        write_sources(aside / "pool_sources.json", frames["pool"], pool)
    csv_frame(leaks).to_csv(aside / "leaks.csv", index=False)
    csv_frame(pd.concat(left_out, ignore_index=True)).to_csv(aside / "quarantine.csv", index=False)
    for name, ledger in ledgers.items():
        _log.info("%s: %s", name, ledger.summary())
    _must_add_up(ledgers, {name: frames[name] for name in sets})


def check_limit(
    folder: Path, identity: Identity, data: DataParams, sets: list[str], layout: Layout
) -> None:
    """Hold lists that were made before to today's ``data.max_bad``, which is none of their inputs.

    Raises:
        DataError: more images of a scan cannot be used than it allows.
    """
    import pandas as pd

    from hgnetv2_pipeline.data.quarantine import Ledger

    left = pd.read_csv(folder / "quarantine.csv", keep_default_na=False)
    scanned = {"pool"}
    scanned |= {"test"} if data.test or "test" in layout.sets else set()
    scanned |= set() if is_split(layout) else {"val"}
    ledgers = []
    for scan in sorted(map(str, left["set"].unique())):
        rows = left[left["set"] == scan]
        lists = [scan] if scan != "images" else [name for name in sets if name not in scanned]
        used = sum(count_rows(folder / f"index_{name}.parquet") for name in lists)
        ledgers.append(Ledger(used + rows["key"].nunique(), data.max_bad))
        for key, reason in rows.loc[rows["fate"] == "quarantined", ["key", "reason"]].to_numpy():
            ledgers[-1].quarantine(str(key), str(reason))
    _check(ledgers, identity)


def _check(ledgers: Iterable[Ledger], identity: Identity) -> None:
    for ledger in ledgers:
        ledger.check(f"data.max_bad (conf/{identity.environment}/parameters.yml)")


def _write_list(path: Path, frame: pd.DataFrame) -> None:
    from hgnetv2_pipeline.data.lists import multi_label, read

    if multi_label.is_multi_label(frame):
        multi_label.write_multi_label_list(
            path, frame["key"].tolist(), multi_label.label_matrix(frame)
        )
        return
    listed = frame.rename(columns={"path": "file", "key": "path"})
    # Unlabelled images carry label 0, as PaddleClas's list of mined images has it.
    read.write_list(path, listed.assign(label=listed["label"].fillna(0)))


def _read_groups(identity: Identity, data: DataParams, samples: pd.DataFrame) -> pd.Series | None:
    """The group of each image by key, from the user's table."""
    import pandas as pd

    if data.split.groups is None:
        return None
    path = identity.project / Path(data.split.groups).expanduser()
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"data.split.groups: {path} cannot be read ({error})") from error
    if not {"path", "group"} <= set(table.columns):
        raise DataError(
            f"data.split.groups: {path} has the columns {', '.join(table.columns)}; path (below "
            "data.root) and group are needed"
        )
    twice = table["path"].duplicated()
    if twice.any():
        raise DataError(f"data.split.groups: {path} names {table['path'][twice].iloc[0]!r} twice")
    groups = table.set_index("images/" + table["path"])["group"]
    alone = ~samples["key"].isin(groups.index)
    if alone.all():
        raise DataError(
            f"data.split.groups: {path} names none of the images, such as "
            f"{samples['key'].iloc[0].removeprefix('images/')!r}; give paths below data.root"
        )
    if alone.any():
        _log.warning("%s names no group for %d images: each is its own", path, int(alone.sum()))
    return groups


def _must_add_up(ledgers: dict[str, Ledger], frames: dict[str, pd.DataFrame]) -> None:
    """Listed = used + quarantined + refused, with used counted in the lists themselves."""
    used = sum(ledger.summary()["n_used"] for ledger in ledgers.values())
    listed = sum(len(frame) for frame in frames.values())
    assert used == listed, f"{used} images are left over and {listed} are in the lists"


def _report_few(scan: Scan, data: DataParams) -> None:
    """Classes of few images stay in lists of several labels, where they are columns; say which."""
    from hgnetv2_pipeline.data.lists import multi_label

    names = scan.classes or []
    counts = multi_label.images_per_class(scan.samples, len(names))
    few = [at for at, count in enumerate(counts.tolist()) if count < data.min_per_class]
    if few:
        _log.warning(
            "%d of %d classes have fewer than %d images (data.min_per_class), first %r with %d; "
            "they stay, and a class without an image learns to be absent",
            len(few), len(names), data.min_per_class, names[few[0]], counts[few[0]],
        )  # fmt: skip


def _report_absent(frames: Mapping[str, pd.DataFrame], classes: list[str]) -> None:
    """Say which classes val or test has no image of: nothing is measured of them there."""
    for name in ("val", "test"):
        if name not in frames or not len(frames[name]):
            continue
        seen = set(frames[name]["label"].tolist())
        absent = [classes[label] for label in range(len(classes)) if label not in seen]
        if absent:
            shown = ", ".join(map(repr, absent[:3])) + (" ..." if absent[3:] else "")
            _log.warning(
                "%s has images of %d of %d classes, none of %s",
                name,
                len(seen),
                len(classes),
                shown,
            )


def _hashes(scans: dict[str, Scan]) -> pd.Series | None:
    """Perceptual hashes of all labelled images by key."""
    import pandas as pd

    known = [scan.phash for scan in scans.values() if scan.phash is not None]
    return pd.concat(known) if known else None


def _scan(identity: Identity, data: DataParams, raw: Path, layout: Layout) -> dict[str, Scan]:
    """Scan each source once; keys and paths become relative to ``raw``."""
    from hgnetv2_pipeline.data.decode import Decoding, background_of
    from hgnetv2_pipeline.data.scan.folders import scan_folder_tree

    place = labelled_place(data, identity.project, raw)
    decoding = Decoding(background=background_of(data.alpha))
    read = _scan_imagenet if layout.name in ("imagenet", "sample") else _scan_listed
    scans = {
        "images" if split == "train" else split: relative_to_raw(raw, raw / "images", scan)
        for split, scan in read(data, layout, place, decoding).items()
    }
    if data.test:
        if layout.name == "multi_label":
            raise ParameterError(
                f"data.test={data.test} is a folder per class; images of several labels are tested "
                "by a test_list.txt in data.root"
            )
        with name_parameter("test"):
            scan = scan_folder_tree(
                raw / "test",
                class_from=layout.class_from,
                classes=scans["images"].classes,
                trusted_roots=place.trusted,
                decoding=decoding,
                threads=data.workers or None,
                phash=True,
            )
        scans["test"] = relative_to_raw(raw, raw / "test", scan)
    return scans


def _scan_listed(
    data: DataParams, layout: Layout, place: Place, decoding: Decoding
) -> dict[str, Scan]:
    """Every set of a layout, decoded."""
    from hgnetv2_pipeline.data.scan.folders import scan_listing, with_enough
    from hgnetv2_pipeline.data.scan.layout_sets import list_sets

    scans = {}
    with name_parameter("root"):
        listings = list_sets(place, layout, duplicates=data.duplicates)
        for split, listing in listings.items():
            scans[split] = scan_listing(listing, decoding, data.workers or None, phash=True)
            alone = layout.name == "folders"  # the classes of other sets must be those of train
            if listing.folders is not None:
                least = data.min_per_class if alone else 1
                scans[split] = with_enough(scans[split], listing, least, fixed=split != "train")
    if layout.name == "multi_label":
        _report_few(scans["train"], data)
    return scans


def _scan_imagenet(
    data: DataParams, layout: Layout, place: Place, decoding: Decoding
) -> dict[str, Scan]:
    """ILSVRC2012, in any of its forms."""
    from hgnetv2_pipeline.data.scan import imagenet
    from hgnetv2_pipeline.data.scan.folders import UNNAMED_CLASSES

    scans: dict[str, Scan] = {}
    names = folders = None
    for split in layout.sets:
        with name_parameter("root"):
            scan = imagenet.scan_imagenet(
                place.root, split, classes=names, folders=folders, duplicates=data.duplicates,
                trusted_roots=place.trusted, decoding=decoding, threads=data.workers or None,
                phash=True,
            )  # fmt: skip
        names, folders = scan.classes, scan.folders
        if names is None:
            names = [str(label) for label in range(int(scan.samples["label"].max()) + 1)]
            scan = replace(scan, classes=names)
            _log.warning(UNNAMED_CLASSES, data.root)
        scans[split] = scan
    return scans
