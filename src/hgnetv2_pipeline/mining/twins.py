"""Pool images that are copies of protected ones: exact bytes, same name, edited copies.

The protected side (val, test, train) is the index and the pool streams past it: apart from the
rows found, only hashes of the protected images are held.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hgnetv2_pipeline import data
from hgnetv2_pipeline.errors import DataError, ParameterError, unknown_name
from hgnetv2_pipeline.mining.neighbours import HashIndex
from hgnetv2_pipeline.mining.shards import read_manifests
from hgnetv2_pipeline.mining.verify import Evidence, Picture, Thresholds, compare
from hgnetv2_pipeline.mining.views import VIEW_COUNT, view_hashes
from hgnetv2_pipeline.progress import Progress

_log = logging.getLogger(__name__)

CHANNELS = ("bytes", "name", "phash")
COLUMNS = [
    "key", "val_key", "protected", "channel", "distance", "inliers", "correlation", "high_pass",
    "decision",
]  # fmt: skip
_CHUNK = 8192
_HELD_PICTURES = 2048


@dataclass(frozen=True)
class _Protected:
    """Protected images in one order, each row with its set's name, and the sets' roots."""

    rows: pd.DataFrame
    roots: dict[str, Path]

    def read(self, position: int) -> NDArray[np.uint8]:
        row = self.rows.iloc[position]
        return _grey(row, self.roots[row["protected"]])


def deduplicate(
    scores: Path | pd.DataFrame,
    protected: Mapping[str, tuple[pd.DataFrame, Path]],
    *,
    pool: tuple[pd.DataFrame | Path, Path],
    auto_max: int = 4,
    verify_max: int = 10,
    views: int = VIEW_COUNT,
    candidates: int = 5,
    exact_only: Collection[str] = ("train",),
    channels: Collection[str] = ("bytes", "phash"),
    name_pattern: str | None = None,
    thresholds: Thresholds | None = None,
    workers: int = 1,
) -> pd.DataFrame:
    """Decide for every pool image that resembles a protected one: ``remove``, ``review``, ``keep``.

    ``scores`` is the folder of score shards, or a frame with key, phash64 and bytes_sha256;
    ``protected`` maps a set's name to its samples and root; ``pool`` is the pool's samples (or its
    parquet index) and root, from which the pictures to verify are read. Channels:

    - ``bytes``: same SHA-256 as an image of any set: removed;
    - ``name``: the part of the key that ``name_pattern`` matches (its first group, if it has one)
      is that of an image of any set: removed. ImageNet-22k holds ImageNet-1k under the same names;
      for other data names mean little, so the channel needs a pattern;
    - ``phash``: for the sets not in ``exact_only``. Hashes of ``views`` views of each protected
      image; a pool image within ``auto_max`` bits of one is removed, the nearest ``candidates``
      within ``verify_max`` are compared pixel by pixel (``thresholds``).

    Returns one row a resembling pool image, sorted by key: key, val_key (its twin), protected (the
    twin's set), channel, distance (bits; -1 if the channel has none), inliers, correlation,
    high_pass (0 where nothing was compared), decision. Raises DataError when a protected image
    cannot be read, since a set that cannot be read cannot be guarded.
    """
    for channel in channels:
        if channel not in CHANNELS:
            raise unknown_name("channel", channel, CHANNELS, "mining.dedup.channels")
    if ("name" in channels) != (name_pattern is not None):
        raise ParameterError(
            "the channel 'name' and name_pattern go together: set both or neither "
            "(mining.dedup.channels, mining.dedup.name_pattern)"
        )
    if not 0 <= auto_max <= verify_max <= 32:
        raise ParameterError(
            f"auto_max {auto_max} and verify_max {verify_max} must satisfy "
            "0 <= auto_max <= verify_max <= 32 (mining.dedup)"
        )
    guarded = _gather(protected)
    rows: list[dict[str, Any]] = []
    if "bytes" in channels:
        rows += _equal(scores, guarded, "bytes", "")
    if "name" in channels:
        rows += _equal(scores, guarded, "name", name_pattern or "")
    settled = {row["key"] for row in rows}
    rows = list({row["key"]: row for row in reversed(rows)}.values())  # bytes before name
    if "phash" in channels:
        limits = thresholds or Thresholds()
        near = _Protected(
            guarded.rows[~guarded.rows["protected"].isin(list(exact_only))].reset_index(drop=True),
            guarded.roots,
        )
        found = _near(scores, near, settled, views, auto_max, verify_max, candidates, workers)
        rows += _verified(found, near, pool, auto_max, limits, workers)
    frame = pd.DataFrame(rows, columns=COLUMNS).sort_values("key", ignore_index=True)
    counts = frame["decision"].value_counts().to_dict()
    _log.info("near-duplicates of protected images: %s", counts or "none")
    return frame.astype(
        {"distance": "int16", "inliers": "int32", "correlation": "float32", "high_pass": "float32"}
    )


def _gather(protected: Mapping[str, tuple[pd.DataFrame, Path]]) -> _Protected:
    """The protected sets as one frame in the order given, every image with its bytes' hash."""
    frames = []
    for name, (samples, root) in protected.items():
        rows = samples[["key", "path", "offset", "length", "bytes_sha256"]].copy()
        unknown = ~rows["bytes_sha256"].map(lambda value: isinstance(value, str) and bool(value))
        rows.loc[unknown, "bytes_sha256"] = [
            hashlib.sha256(data.read_bytes(row, root)).hexdigest()
            for _, row in rows[unknown].iterrows()
        ]
        frames.append(rows.assign(protected=name))
    if not frames:
        raise ParameterError("no protected set given; mining must know val at least")
    roots = {name: root for name, (_, root) in protected.items()}
    return _Protected(pd.concat(frames, ignore_index=True), roots)


def _equal(
    scores: Path | pd.DataFrame, guarded: _Protected, channel: str, pattern: str
) -> list[dict[str, Any]]:
    """Pool images that share their bytes, or their name, with a protected image."""
    column = "bytes_sha256" if channel == "bytes" else "key"

    def identities(values: pd.Series[str]) -> pd.Series[str]:
        return values if channel == "bytes" else values.map(_name(pattern))

    known = identities(guarded.rows[column]).dropna().drop_duplicates()
    index = pd.Index(known)  # its hash table is made once, for all chunks
    rows = []
    for chunk in _pool_chunks(scores, ["key", "bytes_sha256"]):
        found = index.get_indexer(pd.Index(identities(chunk[column])))
        for place in np.flatnonzero(found >= 0):
            twin = guarded.rows.loc[known.index[found[place]]]
            rows.append(_row(chunk["key"].iloc[place], twin, channel, -1, Evidence(), "remove"))
    return rows


def _name(pattern: str) -> Any:
    compiled = re.compile(pattern)

    def identity(key: str) -> str | None:
        match = compiled.search(key)
        return match[match.lastindex or 0] if match else None

    return identity


def _near(
    scores: Path | pd.DataFrame,
    near: _Protected,
    settled: set[str],
    views: int,
    auto_max: int,
    verify_max: int,
    candidates: int,
    workers: int,
) -> pd.DataFrame:
    """Candidate pairs by hash: key, position (of the twin), view, distance; best first a key."""
    columns = ["key", "position", "view", "distance"]
    if not len(near.rows):
        return pd.DataFrame(columns=columns)

    def hashed(position: int) -> NDArray[np.uint64]:
        return view_hashes(near.read(position), views)

    with ThreadPoolExecutor(workers) as threads:
        hashes = []
        with Progress(len(near.rows), "hashing protected images", "img") as progress:
            for one in threads.map(hashed, range(len(near.rows))):
                hashes.append(one)
                progress.advance()
        index = HashIndex(np.stack(hashes))

        def searched(chunk: pd.DataFrame) -> pd.DataFrame:
            found = index.search(chunk["phash64"].to_numpy(np.uint64), verify_max, candidates)
            return pd.DataFrame(
                {
                    "key": chunk["key"].to_numpy()[found.query],
                    "position": found.picture,
                    "view": found.view,
                    "distance": found.distance,
                }
            )

        parts = []
        total = _pool_size(scores)
        with Progress(total, "comparing hashes", "img") as progress:
            chunks = _pool_chunks(scores, ["key", "phash64"])
            for group in _groups(chunks, workers):
                for chunk, part in zip(group, threads.map(searched, group), strict=True):
                    parts.append(part[~part["key"].isin(settled)])
                    progress.advance(len(chunk))
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def _verified(
    found: pd.DataFrame,
    near: _Protected,
    pool: tuple[pd.DataFrame | Path, Path],
    auto_max: int,
    limits: Thresholds,
    workers: int,
) -> list[dict[str, Any]]:
    """One row a pool image with candidates: the pixels decide wherever the hash alone may not."""
    if found.empty:
        return []
    samples, root = pool
    places = pool_places(samples, found["key"].unique())
    shelf = _Shelf(near)

    def judged(item: tuple[str, pd.DataFrame]) -> dict[str, Any]:
        key, pairs = item
        columns = (pairs[name].tolist() for name in ("position", "view", "distance"))
        tried = list(zip(*columns, strict=True))
        position, _, distance = tried[0]
        if distance <= auto_max:
            twin = near.rows.iloc[position]
            return _row(key, twin, "phash", distance, Evidence(), "remove")
        picture = Picture(_grey(places.loc[key], root))
        best: dict[str, Any] | None = None
        for position, view, distance in tried:
            evidence = compare(picture, shelf.get(position), view, limits)
            decision = evidence.decision(limits)
            row = _row(key, near.rows.iloc[position], "phash", distance, evidence, decision)
            if best is None or _weight(row) > _weight(best):
                best = row
            if row["decision"] == "remove":
                break
        assert best is not None  # noqa: S101
        return best

    items = [(str(key), pairs) for key, pairs in found.groupby("key", sort=True)]
    rows = []
    with (
        ThreadPoolExecutor(workers) as threads,
        Progress(len(items), "verifying near-duplicates", "img") as progress,
    ):
        for row in threads.map(judged, items):
            rows.append(row)
            progress.advance()
    return rows


class _Shelf:
    """The protected pictures lately compared, ready made; a bounded number of them."""

    def __init__(self, near: _Protected) -> None:
        self._near = near
        self._held: OrderedDict[int, Picture] = OrderedDict()

    def get(self, position: int) -> Picture:
        picture = self._held.get(position)
        if picture is None:
            picture = Picture(self._near.read(position))
            self._held[position] = picture
            if len(self._held) > _HELD_PICTURES:
                self._held.popitem(last=False)
        return picture


def _weight(row: Mapping[str, Any]) -> tuple[int, float]:
    return (("keep", "review", "remove").index(row["decision"]), row["correlation"])


def _row(
    key: str,
    twin: pd.Series[Any],
    channel: str,
    distance: int,
    evidence: Evidence,
    decision: str,
) -> dict[str, Any]:
    values = (
        key, twin["key"], twin["protected"], channel, distance, evidence.inliers,
        evidence.correlation, evidence.high_pass, decision,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def _grey(row: Any, root: Path) -> NDArray[np.uint8]:
    try:
        image = data.decode_image(data.read_bytes(row, root))
    except (DataError, OSError) as error:
        raise DataError(
            f"{row['path']} below {root} could be read before and cannot now: {error}"
        ) from error
    return np.asarray(image.convert("L"))


def _pool_size(scores: Path | pd.DataFrame) -> int:
    if isinstance(scores, pd.DataFrame):
        return len(scores)
    return sum(int(manifest["rows"]) for manifest in read_manifests(scores).values())


def _pool_chunks(scores: Path | pd.DataFrame, columns: list[str]) -> Iterator[pd.DataFrame]:
    """The scored pool, a few thousand rows at a time."""
    if isinstance(scores, pd.DataFrame):
        for first in range(0, len(scores), _CHUNK):
            yield scores.iloc[first : first + _CHUNK][columns].reset_index(drop=True)
        return
    import pyarrow.parquet as pq

    for path in sorted(read_manifests(scores)):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_CHUNK, columns=columns):
                yield batch.to_pandas()


def _groups(chunks: Iterator[pd.DataFrame], size: int) -> Iterator[list[pd.DataFrame]]:
    """Chunks in groups, so that no more of the pool is read ahead than there are threads."""
    group: list[pd.DataFrame] = []
    for chunk in chunks:
        group.append(chunk)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def pool_places(samples: pd.DataFrame | Path, keys: NDArray[Any]) -> pd.DataFrame:
    """Path, offset and length of the pool images with these keys, by key."""
    columns = ["key", "path", "offset", "length"]
    if isinstance(samples, pd.DataFrame):
        rows = samples.loc[samples["key"].isin(keys), columns]
    else:
        import pyarrow.dataset as ds

        table = ds.dataset(samples).to_table(columns=columns, filter=ds.field("key").isin(keys))
        rows = table.to_pandas()
    if len(rows) != len(keys):
        raise DataError(
            f"{len(keys) - len(rows)} scored images are missing from the pool's index; "
            "score the pool again"
        )
    return rows.set_index("key")
