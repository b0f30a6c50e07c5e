"""The pool's sources, each scanned once for as long as it does not change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.ingestion.places import name_parameter, relative_to_raw
from hgnetv2_pipeline.project.ingestion.sources import Source, pool_sources
from hgnetv2_pipeline.project.params import DataParams
from hgnetv2_pipeline.project.results import ResultSpec, Reuse

if TYPE_CHECKING:
    import pandas as pd

    from hgnetv2_pipeline.data.scan.folders import Scan

_FILES = ("index.parquet", "quarantined.csv", "refused.csv", "ignored.json")


def pool_contents(reuse: Reuse, identity: Identity, data: DataParams, raw: Path) -> dict[str, str]:
    """What each source of the pool holds, as a hash."""
    hashes = {}
    for source in _sources(identity, data):
        root = raw / "pool" / source.name
        # Of a list, the files it names: it may be in a folder of much else.
        files = _listed_files(source, root) if source.kind == "list" else []
        hashes[f"pool/{source.name}"] = reuse.contents(files) if files else reuse.digest(root)
    return hashes


def scan_pool(
    reuse: Reuse, identity: Identity, data: DataParams, raw: Path, hashes: Mapping[str, str]
) -> None:
    """Scan the sources that are new or have changed, by ``pool_contents``."""
    for source in _sources(identity, data):
        reuse.produce(
            ResultSpec(
                folder=identity.folder("pool_index") / source.name,
                pipeline="ingestion",
                inputs={"images": hashes[f"pool/{source.name}"]},
                params={"duplicates": data.duplicates, "kind": source.kind},
                outputs=_FILES,
            ),
            partial(_write_scan, source, data, raw),
        )


def _sources(identity: Identity, data: DataParams) -> list[Source]:
    """The sources to scan one by one; the sample's pool is among its images."""
    return [] if data.layout == "sample" else pool_sources(data.pool, identity.project)


def read_pool(identity: Identity, data: DataParams, raw: Path) -> dict[str, Scan]:
    """The scan of each source, by what its keys begin with."""
    from hgnetv2_pipeline.data.scan import folders

    if data.layout == "sample":
        pool = raw / "images" / "pool"
        return {"images/pool/": relative_to_raw(raw, pool, folders.scan_unlabelled(pool))}
    return {
        f"pool/{source.name}/": _read_scan(identity.folder("pool_index") / source.name)
        for source in pool_sources(data.pool, identity.project)
    }


def _write_scan(source: Source, data: DataParams, raw: Path, aside: Path) -> None:
    from hgnetv2_pipeline.data.index import write_index
    from hgnetv2_pipeline.data.quarantine import write_quarantine
    from hgnetv2_pipeline.data.scan import folders
    from hgnetv2_pipeline.durable import write_json

    root = raw / "pool" / source.name
    # What data.pool names is trusted by being named.
    allowed = [*(Path(place).expanduser() for place in data.trusted_roots), source.root]
    threads = data.workers or None
    with name_parameter("pool"):
        if source.kind == "list":
            scan = folders.scan_list(
                source.given, root, labelled=_has_labels(source.given, root),
                duplicates=data.duplicates, trusted_roots=allowed, threads=threads,
            )  # fmt: skip
        else:
            scan = folders.scan_unlabelled(root, trusted_roots=allowed, threads=threads)
    scan = relative_to_raw(raw, root, scan)
    index, quarantined, refused, ignored = (aside / name for name in _FILES)
    write_index(index, scan.samples)
    write_quarantine(quarantined, scan.quarantined)
    write_quarantine(refused, scan.refused)
    write_json(
        ignored,
        {
            "files": scan.ignored,
            "examined": scan.examined,
            "transparent": scan.transparent,
            "deep": scan.deep,
            "levels": scan.levels,
            "flat": scan.flat,
            "black": scan.black,
            "tones": scan.tones and scan.tones.to_json(),
        },
    )


def _read_scan(folder: Path) -> Scan:
    import pandas as pd

    from hgnetv2_pipeline.data.index import read_index
    from hgnetv2_pipeline.data.quarantine import read_quarantine
    from hgnetv2_pipeline.data.scan import folders
    from hgnetv2_pipeline.data.scan.tones import tones_from_json
    from hgnetv2_pipeline.durable import read_json

    index, quarantined, refused, ignored = (folder / name for name in _FILES)
    samples = read_index(index)
    # A list may have had labels; the pool has none.
    unlabelled = pd.Series(pd.NA, samples.index, dtype="Int64")
    counts = read_json(ignored)
    return folders.Scan(
        samples=samples.assign(label=unlabelled),
        classes=None,
        quarantined=read_quarantine(quarantined),
        refused=read_quarantine(refused),
        ignored=int(counts["files"]),
        # A scan by an older version did not count these.
        examined=counts.get("examined"),
        transparent=int(counts.get("transparent", 0)),
        deep=int(counts.get("deep", 0)),
        levels=tuple(counts["levels"]) if counts.get("levels") else None,
        flat=int(counts.get("flat", 0)),
        black=int(counts.get("black", 0)),
        tones=tones_from_json(counts["tones"]) if counts.get("tones") else None,
    )


def merge_scans(scans: list[Scan]) -> Scan:
    """Several scans of different places as one."""
    import pandas as pd

    from hgnetv2_pipeline.data.index import sorted_samples

    return replace(
        scans[0],
        samples=sorted_samples(
            pd.concat([scan.samples for scan in scans]) if len(scans) > 1 else scans[0].samples
        ),
        quarantined=pd.concat([scan.quarantined for scan in scans], ignore_index=True),
        refused=pd.concat([scan.refused for scan in scans], ignore_index=True),
        ignored=sum(scan.ignored for scan in scans),
    )


def write_sources(path: Path, pool: pd.DataFrame, prefixes: Iterable[str]) -> None:
    """Note what each source holds: by it mining knows which of them has changed."""
    import numpy as np

    from hgnetv2_pipeline.data.index import images_hash
    from hgnetv2_pipeline.durable import write_json

    sources = {}
    for prefix in prefixes:
        of_source = np.flatnonzero(pool["key"].str.startswith(prefix))
        # Sorted by key they follow one another; a slice copies nothing.
        rows = pool.iloc[of_source[0] : of_source[-1] + 1] if len(of_source) else pool.iloc[:0]
        name = prefix.rstrip("/").rpartition("/")[2]
        sources[name] = {"prefix": prefix, "images": len(rows), "sha256": images_hash(rows)}
    write_json(path, sources)


def _listed_files(source: Source, root: Path) -> list[Path]:
    """The list of a source and the files (or archives) that it names below ``root``, each once."""
    from hgnetv2_pipeline.data.index import ARCHIVE_MARK
    from hgnetv2_pipeline.data.lists import read

    with name_parameter("pool"):
        listed = read.read_list(source.given, labelled=_has_labels(source.given, root))
    names = listed["path"].str.replace(rf"{ARCHIVE_MARK}.*", ARCHIVE_MARK[:-1], regex=True)
    return [source.given, *(root / name for name in names.unique())]


def _has_labels(list_path: Path, root: Path) -> bool:
    """Whether a list of a pool has labels behind its paths, as PaddleClas's lists of one do."""
    with list_path.open(encoding="utf-8-sig") as file:
        lines = (line.strip() for line in file)
        first = next((line for line in lines if line and not line.startswith("#")), "")
    path, _, label = first.rpartition(" ")
    return bool(path) and label.isdecimal() and not (root / first).is_file()
