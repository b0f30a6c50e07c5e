"""From folders of images to lists: where they are, what they hold, which set each belongs to."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from hgnetv2_pipeline import ownership
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.project.claims import claims
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.ingestion.pages import write_report
from hgnetv2_pipeline.project.ingestion.pool import pool_contents, scan_pool
from hgnetv2_pipeline.project.ingestion.sets import check_limit, write_lists
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import DataParams
from hgnetv2_pipeline.project.results import Reuse
from hgnetv2_pipeline.project.sources import is_split, pool_sources, sets_of

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
            from hgnetv2_pipeline.data.sample import write_sample

            claims.before_making()
            with ownership.sole(raw):
                write_sample(raw / "images")
            _log.info("the embedded sample was written to %s", identity.relative("raw"))
        return raw
    places: dict[str, str | Path] = {"images": data.root}
    if data.test:
        places["test"] = data.test
    for source in pool_sources(data.pool, identity.project):
        places[f"pool/{source.link}"] = source.root
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
        claims.before_making()
        with ownership.sole(raw):
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
    sets = sets_of(data, raw / "images")
    reuse = Reuse(identity.project, redo)
    sources: dict[str, Path | str] = {
        name: raw / name for name in ("images", "test") if (raw / name).is_dir()
    }
    hashes = {} if data.layout == "sample" else pool_contents(reuse, identity, data, raw)

    def make(aside: Path) -> None:
        if hashes:
            scan_pool(reuse, identity, data, raw, hashes)
        write_lists(aside, identity, data, raw, sets)

    if data.split.groups is not None and is_split(data, raw / "images"):
        sources["groups"] = identity.project / Path(data.split.groups).expanduser()
    places = {"root", "pool", "test", "trusted_roots", "workers", "max_bad"}
    result = reuse.produce(
        folder,
        pipeline="ingestion",
        inputs=sources | hashes,
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
            *(["pool_sources.json"] if "pool" in sets else []),
        ],
        make=make,
    )
    if result.reused:
        check_limit(folder, identity, data, raw, sets)
    return folder


def report_lists(
    identity: Identity, redo: list[str], raw: Path, lists: Path
) -> tuple[Path, Path, Path, Path]:
    """What the dataset holds, in numbers and pictures, and what was left out."""
    reuse = Reuse(identity.project, redo)
    known = Lists(lists)
    sets = [name for name in SETS if known.has(name)]
    report = identity.folder("dataset_report")
    reuse.produce(
        report,
        pipeline="ingestion",
        inputs={"lists": lists},
        params={},
        outputs=["summary.json", "contact_sheet.png", "dataset_report.html"],
        make=lambda aside: write_report(aside, identity, known, sets, raw),
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
    return (
        report / "summary.json",
        report / "contact_sheet.png",
        report / "dataset_report.html",
        quarantine / "ingestion.csv",
    )
