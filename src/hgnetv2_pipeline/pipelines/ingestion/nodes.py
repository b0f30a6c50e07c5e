"""From folders of images to lists: where they are, what they hold, which set each belongs to."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hgnetv2_pipeline.durable import write_json
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.pipelines.identity import Identity
from hgnetv2_pipeline.pipelines.lists import Lists
from hgnetv2_pipeline.pipelines.params import DataParams
from hgnetv2_pipeline.pipelines.reuse import Reuse

if TYPE_CHECKING:
    import pandas as pd

    from hgnetv2_pipeline.data import Ledger, Scan

_log = logging.getLogger(__name__)
SETS = ("train", "val", "test", "pool")


def provide_raw(identity: Identity, data: DataParams) -> Path:
    """Make ``01_raw/<dataset>`` show all images: the sample is written, others are linked.

    One root for all sets keeps every path relative, so that lists and hashes do not change when
    the project moves. What lies there already belongs to the user and is never written again.
    """
    raw = identity.folder("raw")
    if data.layout == "sample":
        if not (raw / "images").is_dir():
            from hgnetv2_pipeline.data import write_sample

            aside = raw / ".images-partial"
            shutil.rmtree(aside, ignore_errors=True)
            write_sample(aside)
            aside.rename(raw / "images")
            _log.info("the embedded sample was written to %s", identity.relative("raw"))
        return raw
    places = {"images": data.root}
    if data.test:
        places["test"] = data.test
    places |= {f"pool/{number}": place for number, place in enumerate(data.pool)}
    for name, given in places.items():
        target = (identity.project / Path(given).expanduser()).resolve()
        link = raw / name
        if not target.exists():
            role = name.split("/")[0]
            key = {"images": "root"}.get(role, role)
            raise DataError(
                f"data.{key}: {given} does not exist "
                f"(conf/{identity.environment}/parameters.yml or --params data.{key}=DIR)"
            )
        if link.resolve() == target:
            continue
        if link.is_symlink():
            link.unlink()
        elif link.exists():
            raise DataError(f"{link} exists and is not {given}: move one of the two away")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    return raw


def make_lists(identity: Identity, data: DataParams, redo: list[str], raw: Path) -> Path:
    """Scan every image once, divide the labelled ones, and write indexes and lists."""
    folder = identity.folder("lists")
    sets = ["train", "val"]
    sets += ["test"] if data.test or data.split.test else []
    sets += ["pool"] if data.pool or data.layout == "sample" else []
    sources = {name: raw / name for name in ("images", "test", "pool") if (raw / name).is_dir()}
    places = {"root", "pool", "test", "trusted_roots", "workers", "max_bad"}
    Reuse(identity.project, redo).produce(
        folder,
        pipeline="ingestion",
        inputs=dict(sources),
        params={
            **data.model_dump(mode="json", exclude=places),
            "seed": identity.seed,
            "sets": sets,
        },
        outputs=[
            "class_map.txt",
            "leaks.csv",
            "quarantine.csv",
            *(f"index_{name}.parquet" for name in sets),
            *(f"{name}_list.txt" for name in sets),
        ],
        make=lambda aside: _write_lists(aside, identity, data, raw, sets),
    )
    return folder


def _write_lists(
    aside: Path, identity: Identity, data: DataParams, raw: Path, sets: list[str]
) -> None:
    import pandas as pd

    from hgnetv2_pipeline import data as room

    scans = _scan(data, raw)
    ledgers = {name: scan.ledger(data.max_bad) for name, scan in scans.items()}
    for ledger in ledgers.values():
        ledger.check(f"data.max_bad (conf/{identity.environment}/parameters.yml)")
    classes = scans["images"].classes
    if not classes:
        raise DataError(f"{data.root}: no classes found (data.root, data.layout)")
    frames = {name: scan.samples for name, scan in scans.items() if name != "images"}
    if data.layout == "folders":
        labelled = scans["images"]
        frames |= room.split_samples(
            labelled.samples,
            val=data.split.val,
            test=0.0 if data.test else data.split.test,
            seed=identity.seed,
            group_pattern=data.split.group_pattern,
            near_duplicates=labelled.phash if data.split.near_duplicates else None,
            classes=classes,
        ) | ({"test": frames["test"]} if data.test else {})
    else:
        frames["train"] = scans["images"].samples
    leaks = room.find_leaks(frames, _hashes(scans))
    left_out = [
        frame.assign(set=name, fate=fate)
        for name, scan in scans.items()
        for fate, frame in (("quarantined", scan.quarantined), ("refused", scan.refused))
    ]
    if data.clean:
        frames, refused = room.clean_sets(frames, leaks, classes)
        homes = {key: name for name, scan in scans.items() for key in scan.samples["key"]}
        left_out.append(refused.assign(set=refused["key"].map(homes), fate="refused"))
        for key, reason in refused[["key", "reason"]].itertuples(index=False):
            ledgers[homes[key]].refuse(key, reason)
        leaks = room.find_leaks(frames, _hashes(scans))
    room.write_class_map(aside / "class_map.txt", classes)
    for name in sets:
        room.write_index(aside / f"index_{name}.parquet", frames[name])
        listed = frames[name].rename(columns={"path": "file", "key": "path"})
        # Unlabelled images carry label 0, as PaddleClas's list of mined images has it.
        room.write_list(aside / f"{name}_list.txt", listed.assign(label=listed["label"].fillna(0)))
    for name, ledger in ledgers.items():
        _log.info("%s: %s", name, ledger.summary())
    if len(leaks):
        _log.warning(
            "%d images of train or val stand, at least nearly, in val or test (leaks.csv, "
            "dataset_report.html); data.clean: true leaves them out",
            leaks["key"].nunique(),
        )
    leaks.to_csv(aside / "leaks.csv", index=False)
    pd.concat(left_out, ignore_index=True).to_csv(aside / "quarantine.csv", index=False)
    _must_add_up(ledgers, {name: frames[name] for name in sets})


def _must_add_up(ledgers: dict[str, Ledger], frames: dict[str, pd.DataFrame]) -> None:
    """Listed = used + quarantined + refused, with used counted in the lists themselves."""
    used = sum(ledger.summary()["n_used"] for ledger in ledgers.values())
    listed = sum(len(frame) for frame in frames.values())
    assert used == listed, f"{used} images are left over and {listed} are in the lists"


def _hashes(scans: dict[str, Scan]) -> pd.Series | None:
    """Perceptual hashes of all labelled images by key."""
    import pandas as pd

    known = [scan.phash for scan in scans.values() if scan.phash is not None]
    return pd.concat(known) if known else None


def _scan(data: DataParams, raw: Path) -> dict[str, Scan]:
    """Scan each source once; keys and paths become relative to ``raw``."""
    from hgnetv2_pipeline import data as room

    trusted = [Path(place).expanduser() for place in data.trusted_roots]
    threads = data.workers or None
    images = raw / "images"
    if data.layout == "folders":
        with _about("root"):
            scan = room.scan_folder_tree(
                images,
                min_per_class=data.min_per_class,
                trusted_roots=trusted,
                threads=threads,
                phash=True,
            )
        scans = {"images": _below(raw, images, scan)}
    else:
        scans = {}
        names = folders = None
        for role, split in (("images", "train"), ("val", "val")):
            with _about("root"):
                scan = room.scan_imagenet(
                    images, split, classes=names, folders=folders, duplicates=data.duplicates,
                    trusted_roots=trusted, threads=threads, phash=True,
                )  # fmt: skip
            names, folders = scan.classes, scan.folders
            scans[role] = _below(raw, images, scan)
    if data.test:
        with _about("test"):
            scan = room.scan_folder_tree(
                raw / "test",
                classes=scans["images"].classes,
                trusted_roots=trusted,
                threads=threads,
                phash=True,
            )
        scans["test"] = _below(raw, raw / "test", scan)
    pool = images / "pool" if data.layout == "sample" else raw / "pool"
    if pool.is_dir():
        # The pool's own links lead to the folders of data.pool, which are trusted by being named.
        linked = [path.resolve() for path in pool.iterdir() if path.is_symlink()]
        with _about("pool"):
            scan = room.scan_unlabelled(pool, trusted_roots=[*trusted, *linked], threads=threads)
        scans["pool"] = _below(raw, pool, scan)
    return scans


@contextmanager
def _about(key: str) -> Iterator[None]:
    """Name the parameter that an error is about: paths show links in the project, not its value."""
    try:
        yield
    except DataError as error:
        raise DataError(f"data.{key}: {error}") from error


def _below(raw: Path, root: Path, scan: Scan) -> Scan:
    """``scan`` of ``root`` with keys and paths relative to ``raw``."""
    prefix = root.relative_to(raw).as_posix() + "/"
    samples = scan.samples.assign(
        key=prefix + scan.samples["key"], path=prefix + scan.samples["path"]
    )
    phash = scan.phash
    if phash is not None:
        phash = phash.set_axis(prefix + phash.index.astype(str))
    return replace(
        scan,
        samples=samples,
        phash=phash,
        quarantined=scan.quarantined.assign(key=prefix + scan.quarantined["key"].astype(str)),
        refused=scan.refused.assign(key=prefix + scan.refused["key"].astype(str)),
    )


def report_lists(
    identity: Identity, redo: list[str], raw: Path, lists: Path
) -> tuple[Path, Path, Path]:
    """What the dataset holds, in numbers and in a picture, and what was left out."""
    reuse = Reuse(identity.project, redo)
    known = Lists(lists)
    sets = [name for name in SETS if known.has(name)]

    def make(aside: Path) -> None:
        import pandas as pd

        from hgnetv2_pipeline import data as room

        frames = {name: known.frame(name) for name in sets}
        left_out = pd.read_csv(lists / "quarantine.csv", dtype=str, keep_default_na=False)
        roles = {"images": "train"}
        bad = {roles.get(str(name), str(name)): rows for name, rows in left_out.groupby("set")}
        summary = room.summarise_sets(frames, known.classes, bad)
        write_json(aside / "summary.json", {"dataset": identity.dataset, **summary})
        shown = frames["train"].groupby("label").head(max(1, 60 // len(known.classes)))
        captions = [known.classes[int(label)] for label in shown["label"]]
        sheet = room.contact_sheet(shown.head(120), raw, 12, 72, captions[:120])
        sheet.save(aside / "contact_sheet.png")

    report = identity.folder("dataset_report")
    reuse.produce(
        report,
        pipeline="ingestion",
        inputs={"lists": lists},
        params={},
        outputs=["summary.json", "contact_sheet.png"],
        make=make,
    )
    quarantine = identity.folder("quarantine")
    reuse.produce(
        quarantine,
        name="ingestion",
        pipeline="ingestion",
        inputs={"lists": lists},
        params={},
        outputs=["ingestion.csv"],
        make=lambda aside: shutil.copyfile(lists / "quarantine.csv", aside / "ingestion.csv"),
    )
    return report / "summary.json", report / "contact_sheet.png", quarantine / "ingestion.csv"
