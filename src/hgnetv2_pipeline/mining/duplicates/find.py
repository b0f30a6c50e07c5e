"""Pool images that are copies of protected ones: exact bytes, same name, edited copies.

The protected side (val, test, train) is the index and the pool streams past it: apart from the
rows found, only hashes (and features) of the protected images are held.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hgnetv2_pipeline.data.patterns import find_matches
from hgnetv2_pipeline.errors import DataError, ParameterError, unknown_name
from hgnetv2_pipeline.mining.duplicates.compare import Evidence, Thresholds
from hgnetv2_pipeline.mining.duplicates.decide import COLUMNS, judge, pair_row
from hgnetv2_pipeline.mining.duplicates.features import FeatureIndex, feature_pairs, features_of
from hgnetv2_pipeline.mining.duplicates.guarded_sets import Protected, gather
from hgnetv2_pipeline.mining.duplicates.neighbours import HashIndex, expected_by_chance
from hgnetv2_pipeline.mining.duplicates.views import VIEW_COUNT, view_hashes
from hgnetv2_pipeline.mining.stream import groups, pool_chunks, pool_size
from hgnetv2_pipeline.progress import Progress

_log = logging.getLogger(__name__)

CHANNELS = ("bytes", "name", "phash", "features")
_PAIR = ["key", "position", "view", "distance"]
_SURVEYED = 16_384


def deduplicate(
    scores: Path | pd.DataFrame,
    protected: Mapping[str, tuple[pd.DataFrame, Path]],
    *,
    pool: tuple[pd.DataFrame | Path, Path],
    auto_max: int = 4,
    verify_max: int = 20,
    verify_budget: int | None = None,
    views: int = VIEW_COUNT,
    candidates: int = 5,
    exact_only: Collection[str] = ("train",),
    channels: Collection[str] = ("bytes", "phash"),
    name_pattern: str | None = None,
    features: Mapping[str, Path | pd.DataFrame] | None = None,
    feature_min: float = 0.8,
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
      within ``verify_max`` are compared pixel by pixel (``thresholds``). In a big pool nearly every
      image has some hash this near: with a ``verify_budget`` the distance is lowered until about
      that many images are left to compare, by the distances of a few thousand of them;
    - ``features``: for the same sets, the nearest ``candidates`` with a cosine of ``feature_min``
      or more to the teacher's features are compared pixel by pixel too. The pool's scores must
      hold ``feat``, and ``features`` maps each set to scores of its own (key, feat).

    Returns one row a resembling pool image, sorted by key: key, val_key (its twin), protected (the
    twin's set), channel, distance (bits; -1 if the channel has none), inliers, correlation,
    high_pass (0 where nothing was compared), decision. Raises DataError when a protected image
    cannot be read, since a set that cannot be read cannot be guarded.
    """
    for channel in channels:
        if channel not in CHANNELS:
            raise unknown_name("channel", channel, CHANNELS, "mining.deduplicate.channels")
    if ("name" in channels) != (name_pattern is not None):
        raise ParameterError(
            "the channel 'name' and name_pattern go together: set both or neither "
            "(mining.deduplicate.channels, mining.deduplicate.name_pattern)"
        )
    if not 0 <= auto_max <= verify_max <= 32:
        raise ParameterError(
            f"auto_max {auto_max} and verify_max {verify_max} must satisfy "
            "0 <= auto_max <= verify_max <= 32 (mining.deduplicate)"
        )
    guarded = gather(protected)
    rows: list[dict[str, Any]] = []
    if "bytes" in channels:
        rows += _equal(scores, guarded, "bytes_sha256", "bytes", lambda values: values)
    if "name" in channels:
        rows += _equal(scores, guarded, "key", "name", _named(name_pattern or ""))
    rows = list({row["key"]: row for row in reversed(rows)}.values())  # bytes before name
    settled = {row["key"] for row in rows}
    near = guarded.without(exact_only)
    found: dict[str, pd.DataFrame] = {}
    if "phash" in channels and len(near.rows):
        limits = (auto_max, verify_max, verify_budget)
        found["phash"] = _by_hash(scores, near, views, limits, candidates, workers)
    if "features" in channels and len(near.rows):
        found["features"] = _by_features(scores, near, features or {}, feature_min, candidates)
    samples, root = pool
    rows += judge(
        found,
        settled,
        near,
        lambda keys: pool_places(samples, keys),
        root,
        auto_max,
        thresholds or Thresholds(),
        workers,
    )
    frame = pd.DataFrame(rows, columns=COLUMNS).sort_values("key", ignore_index=True)
    counts = frame["decision"].value_counts().to_dict()
    _log.info("near-duplicates of protected images: %s", counts or "none")
    return frame.astype(
        {"distance": "int16", "inliers": "int32", "correlation": "float32", "high_pass": "float32"}
    )


def _equal(
    scores: Path | pd.DataFrame,
    guarded: Protected,
    column: str,
    channel: str,
    identities: Callable[[pd.Series[str]], pd.Series[Any]],
) -> list[dict[str, Any]]:
    """Pool images that share their bytes, or their name, with a protected image."""
    known = identities(guarded.rows[column]).dropna().drop_duplicates()
    index = pd.Index(known)  # its hash table is made once, for all chunks
    rows = []
    for chunk in pool_chunks(scores, list({"key", column})):
        found = index.get_indexer(pd.Index(identities(chunk[column])))
        for place in np.flatnonzero(found >= 0):
            twin = guarded.rows.loc[known.index[found[place]]]
            rows.append(pair_row(chunk["key"].iloc[place], twin, channel, -1, Evidence(), "remove"))
    return rows


def _named(pattern: str) -> Callable[[pd.Series[str]], pd.Series[Any]]:
    def identities(keys: pd.Series[str]) -> pd.Series[Any]:
        found = find_matches(pattern, list(keys), "mining.deduplicate.name_pattern")
        named = [match[match.lastindex or 0] if match else None for match in found]
        return pd.Series(named, keys.index, dtype="object")

    return identities


def _by_hash(
    scores: Path | pd.DataFrame,
    near: Protected,
    views: int,
    limits: tuple[int, int, int | None],
    candidates: int,
    workers: int,
) -> pd.DataFrame:
    """Pairs whose hashes are near: key, position of the twin, view, distance; best first."""

    def hashed(position: int) -> NDArray[np.uint64]:
        return view_hashes(near.read(position), views)

    with ThreadPoolExecutor(workers) as threads:
        hashes = []
        with Progress(len(near.rows), "hashing protected images", "img") as progress:
            for one in threads.map(hashed, range(len(near.rows))):
                hashes.append(one)
                progress.advance()
        index = HashIndex(np.stack(hashes))
        reach = _reach(scores, index, len(near.rows) * views, *limits)

        def searched(chunk: pd.DataFrame) -> pd.DataFrame:
            found = index.search(chunk["phash64"].to_numpy(np.uint64), reach, candidates)
            keys = chunk["key"].to_numpy()[found.query]
            columns = (keys, found.picture, found.view, found.distance.astype(np.int16))
            return pd.DataFrame(dict(zip(_PAIR, columns, strict=True)))

        parts = [pd.DataFrame(columns=_PAIR)]
        with Progress(pool_size(scores), "comparing hashes", "img") as progress:
            for group in groups(pool_chunks(scores, ["key", "phash64"]), workers):
                for chunk, part in zip(group, threads.map(searched, group), strict=True):
                    parts.append(part)
                    progress.advance(len(chunk))
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def _reach(
    scores: Path | pd.DataFrame,
    index: HashIndex,
    entries: int,
    auto_max: int,
    verify_max: int,
    budget: int | None,
) -> int:
    """The distance up to which pairs are compared: ``verify_max``, or less to keep the budget."""
    size = pool_size(scores)
    chance = expected_by_chance(size, entries, auto_max)
    if chance > 2:
        _log.warning(
            "auto_max %d removes about %.0f of %d pool images by chance alone; lower it "
            "(mining.deduplicate.auto_max)", auto_max, chance, size,
        )  # fmt: skip
    if budget is None or size <= budget:
        return verify_max
    every = -(-size // _SURVEYED)
    distances, first = [], 0
    for chunk in pool_chunks(scores, ["phash64"]):
        picked = chunk["phash64"].to_numpy(np.uint64)[-first % every :: every]
        distances.append(index.nearest(picked))
        first += len(chunk)
    nearest = np.concatenate(distances)
    reach = verify_max
    while reach > auto_max and (nearest <= reach).mean() * size > budget:
        reach -= 1
    _log.info(
        "pairs up to %d bits are compared pixel by pixel: about %.0f of %d pool images "
        "(verify_budget %d)", reach, (nearest <= reach).mean() * size, size, budget,
    )  # fmt: skip
    return reach


def _by_features(
    scores: Path | pd.DataFrame,
    near: Protected,
    features: Mapping[str, Path | pd.DataFrame],
    least: float,
    candidates: int,
) -> pd.DataFrame:
    """Pairs whose features are alike, each as it is and mirrored: no view is known."""
    parts = []
    for name, rows in near.rows.groupby("protected", sort=False):
        if name not in features:
            raise ParameterError(
                f"the channel 'features' needs the teacher's features of {name}, and they were not "
                "made; set mining.features: true (or leave 'features' out of "
                "mining.deduplicate.channels)"
            )
        parts.append(features_of(features[str(name)], rows["key"]))
    index = FeatureIndex(np.concatenate(parts))
    found = pd.concat(feature_pairs(scores, index, least, candidates), ignore_index=True)
    both = [found.assign(view=view, distance=-1) for view in (0, 1)]
    return pd.concat(both).sort_index(kind="stable").reset_index(drop=True)[_PAIR]


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
