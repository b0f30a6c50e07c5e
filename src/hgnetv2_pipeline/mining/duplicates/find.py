"""Pool images that are copies of protected ones: exact bytes, same name, edited copies.

The protected side (val, test, train) is the index and the pool streams past it: apart from the
rows found, only hashes (and features) of the protected images are held.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hgnetv2_pipeline.data.index import DECODED_BY
from hgnetv2_pipeline.data.patterns import find_matches
from hgnetv2_pipeline.errors import DataError, ParameterError, unknown_name
from hgnetv2_pipeline.mining.duplicates.compare import Evidence, Thresholds
from hgnetv2_pipeline.mining.duplicates.features import FeatureIndex, feature_pairs, features_of
from hgnetv2_pipeline.mining.duplicates.guarded_sets import GuardedImages, gather_guarded_images
from hgnetv2_pipeline.mining.duplicates.neighbours import HashIndex, expected_by_chance
from hgnetv2_pipeline.mining.duplicates.verify import COLUMNS, judge_pairs, pair_row
from hgnetv2_pipeline.mining.duplicates.views import VIEW_COUNT, view_hashes
from hgnetv2_pipeline.mining.scored_pool import ScoredPool
from hgnetv2_pipeline.progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)

CHANNELS = ("bytes", "name", "phash", "features")
_PAIR = ["key", "position", "view", "distance"]
_SURVEYED = 16_384


@dataclass(frozen=True)
class DuplicateSearch:
    """In which channels copies are sought, and from what likeness on.

    Attributes:
        channels: of ``CHANNELS``. ``bytes``: same SHA-256 as an image of any set: removed.
            ``name``: same name as an image of any set: removed; ImageNet-22k holds ImageNet-1k
            under the same names, for other data names mean little. ``phash`` and ``features``: for
            the sets not in ``exact_only``, like by their hashes or by the teacher's features; the
            pixels decide.
        name_pattern: the part of a key that names the image (its first group, if it has one); the
            channel ``name`` needs it.
        views: hashes of each protected image.
        auto_max: bits from one of them within which a pool image is removed unseen.
        verify_max: bits within which a pair is compared pixel by pixel.
        verify_budget: how many pool images may be compared so. In a big pool nearly every image has
            some hash this near: ``verify_max`` is lowered until about that many are left, by the
            distances of a few thousand of them. None: all.
        nearest: protected images that a pool image is compared with, in each channel.
        feature_min: cosine of the teacher's features from which a pair is compared.
        exact_only: sets that are guarded by bytes and name alone.
        thresholds: what the pixels must show.
    """

    channels: Collection[str] = ("bytes", "phash")
    name_pattern: str | None = None
    views: int = VIEW_COUNT
    auto_max: int = 4
    verify_max: int = 20
    verify_budget: int | None = None
    nearest: int = 5
    feature_min: float = 0.8
    exact_only: Collection[str] = ("train",)
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        for channel in self.channels:
            if channel not in CHANNELS:
                raise unknown_name("channel", channel, CHANNELS, "mining.deduplicate.channels")
        if ("name" in self.channels) != (self.name_pattern is not None):
            raise ParameterError(
                "the channel 'name' and name_pattern go together: set both or neither "
                "(mining.deduplicate.channels, mining.deduplicate.name_pattern)"
            )
        if not 0 <= self.auto_max <= self.verify_max <= 32:
            raise ParameterError(
                f"auto_max {self.auto_max} and verify_max {self.verify_max} must satisfy "
                "0 <= auto_max <= verify_max <= 32 (mining.deduplicate)"
            )


def deduplicate(
    scores: Path | Sequence[Path],
    protected: Mapping[str, tuple[pd.DataFrame, Path]],
    *,
    pool: tuple[pd.DataFrame | Path, Path],
    search: DuplicateSearch,
    features: Mapping[str, Path] | None = None,
    workers: int = 1,
) -> pd.DataFrame:
    """Decide for every pool image that resembles a protected one: ``remove``, ``review``, ``keep``.

    ``scores`` are the pool's score shards; ``protected`` maps a set's name to its samples and root;
    ``pool`` is the pool's samples (or its parquet index) and root, from which the pictures to
    verify are read. For the channel ``features`` the pool's scores must hold ``feat``, and
    ``features`` maps each set to score shards of its own that do.

    Returns one row a resembling pool image, sorted by key: key, val_key (its twin), protected (the
    twin's set), channel, distance (bits; -1 if the channel has none), inliers, correlation,
    high_pass (0 where nothing was compared), decision.

    Raises:
        DataError: a protected image cannot be read: a set that cannot be read cannot be guarded.
        ParameterError: the channel ``features`` lacks them.
    """
    scored, guarded = ScoredPool(scores), gather_guarded_images(protected)
    rows: list[dict[str, Any]] = []
    if "bytes" in search.channels:
        rows += _equal(scored, guarded, "bytes_sha256", "bytes", lambda values: values)
    if "name" in search.channels:
        rows += _equal(scored, guarded, "key", "name", _named(search.name_pattern or ""))
    rows = list({row["key"]: row for row in reversed(rows)}.values())  # bytes before name
    settled = {row["key"] for row in rows}
    near = guarded.without(search.exact_only)
    found: dict[str, pd.DataFrame] = {}
    if "phash" in search.channels and len(near.rows):
        found["phash"] = _by_hash(scored, near, search, workers)
    if "features" in search.channels and len(near.rows):
        found["features"] = _by_features(scored, near, features or {}, search)
    samples, root = pool
    rows += judge_pairs(
        found,
        settled,
        near,
        lambda keys: pool_places(samples, keys),
        root,
        search.auto_max,
        search.thresholds,
        workers,
    )
    frame = pd.DataFrame(rows, columns=COLUMNS).sort_values("key", ignore_index=True)
    counts = frame["decision"].value_counts().to_dict()
    words = ", ".join(f"{count:,} {decision}" for decision, count in sorted(counts.items()))
    _log.info("near-duplicates of protected images: %s", words or "none")
    return frame.astype(
        {"distance": "int16", "inliers": "int32", "correlation": "float32", "high_pass": "float32"}
    )


def _equal(
    scored: ScoredPool,
    guarded: GuardedImages,
    column: str,
    channel: str,
    identities: Callable[[pd.Series[str]], pd.Series[Any]],
) -> list[dict[str, Any]]:
    """Pool images that share their bytes, or their name, with a protected image."""
    known = identities(guarded.rows[column]).dropna().drop_duplicates()
    index = pd.Index(known)  # its hash table is made once, for all chunks
    rows = []
    for batch in scored.chunks(list({"key", column})):
        found = index.get_indexer(pd.Index(identities(batch[column].to_pandas())))
        for place in np.flatnonzero(found >= 0):
            twin = guarded.rows.loc[known.index[found[place]]]
            key = batch["key"][place].as_py()
            rows.append(pair_row(key, twin, channel, -1, Evidence(), "remove"))
    return rows


def _named(pattern: str) -> Callable[[pd.Series[str]], pd.Series[Any]]:
    def identities(keys: pd.Series[str]) -> pd.Series[Any]:
        found = find_matches(pattern, list(keys), "mining.deduplicate.name_pattern")
        named = [match[match.lastindex or 0] if match else None for match in found]
        return pd.Series(named, keys.index, dtype="object")

    return identities


def _by_hash(
    scored: ScoredPool, near: GuardedImages, search: DuplicateSearch, workers: int
) -> pd.DataFrame:
    """Pairs whose hashes are near: key, position of the twin, view, distance; best first."""

    def hashed(position: int) -> NDArray[np.uint64]:
        return view_hashes(near.read(position), search.views)

    with ThreadPoolExecutor(workers) as threads:
        hashes = []
        with Progress(len(near.rows), "hashing protected images", "img") as progress:
            for one in threads.map(hashed, range(len(near.rows))):
                hashes.append(one)
                progress.advance()
        index = HashIndex(np.stack(hashes))
        reach = _reach(scored, index, len(near.rows) * search.views, search)

        def searched(batch: pa.RecordBatch) -> pd.DataFrame:
            found = index.search(batch["phash64"].to_numpy(), reach, search.nearest)
            keys = batch["key"].to_numpy(zero_copy_only=False)[found.query]
            columns = (keys, found.picture, found.view, found.distance.astype(np.int16))
            return pd.DataFrame(dict(zip(_PAIR, columns, strict=True)))

        parts = [pd.DataFrame(columns=_PAIR)]
        with Progress(scored.rows, "comparing hashes", "img") as progress:
            for group in _groups(scored.chunks(["key", "phash64"]), workers):
                for batch, part in zip(group, threads.map(searched, group), strict=True):
                    parts.append(part)
                    progress.advance(len(batch))
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def _groups(batches: Iterator[pa.RecordBatch], size: int) -> Iterator[list[pa.RecordBatch]]:
    """Batches in groups, so that no more of the pool is read ahead than there are threads."""
    while group := list(islice(batches, size)):
        yield group


def _reach(scored: ScoredPool, index: HashIndex, entries: int, search: DuplicateSearch) -> int:
    """The distance up to which pairs are compared: ``verify_max``, or less to keep the budget."""
    size, budget = scored.rows, search.verify_budget
    chance = expected_by_chance(size, entries, search.auto_max)
    if chance > 2:
        _log.warning(
            "auto_max %d removes about %.0f of %d pool images by chance alone; lower it "
            "(mining.deduplicate.auto_max)", search.auto_max, chance, size,
        )  # fmt: skip
    if budget is None or size <= budget:
        return search.verify_max
    nearest = index.nearest(scored.numbers("phash64")[:: -(-size // _SURVEYED)])
    reach = search.verify_max
    while reach > search.auto_max and (nearest <= reach).mean() * size > budget:
        reach -= 1
    _log.info(
        "pairs up to %d bits are compared pixel by pixel: about %.0f of %d pool images "
        "(verify_budget %d)", reach, (nearest <= reach).mean() * size, size, budget,
    )  # fmt: skip
    return reach


def _by_features(
    scored: ScoredPool, near: GuardedImages, features: Mapping[str, Path], search: DuplicateSearch
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
    pairs = feature_pairs(scored, index, search.feature_min, search.nearest)
    found = pd.concat(pairs, ignore_index=True)
    both = [found.assign(view=view, distance=-1) for view in (0, 1)]
    return pd.concat(both).sort_index(kind="stable").reset_index(drop=True)[_PAIR]


def pool_places(samples: pd.DataFrame | Path, keys: NDArray[Any]) -> pd.DataFrame:
    """Path, offset and length (and background) of the pool images with these keys, by key."""
    wanted = ["key", "path", "offset", "length", DECODED_BY]
    if isinstance(samples, pd.DataFrame):
        columns = [name for name in wanted if name in samples.columns]
        rows = samples.loc[samples["key"].isin(keys), columns]
    else:
        import pyarrow.dataset as ds

        index = ds.dataset(samples)
        columns = [name for name in wanted if name in index.schema.names]
        rows = index.to_table(columns=columns, filter=ds.field("key").isin(keys)).to_pandas()
    if len(rows) != len(keys):
        raise DataError(
            f"{len(keys) - len(rows)} scored images are missing from the pool's index; "
            "score the pool again"
        )
    return rows.set_index("key")
