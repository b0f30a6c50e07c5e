"""The best k of every class, from the score shards to a list: DuckDB does it out of memory."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hgnetv2_pipeline import data
from hgnetv2_pipeline.errors import DataError, ParameterError, unknown_name
from hgnetv2_pipeline.mining.neighbours import hamming
from hgnetv2_pipeline.mining.shards import read_manifests

if TYPE_CHECKING:
    import duckdb

_log = logging.getLogger(__name__)

LABEL_MODES = ("zero", "teacher_top1")
MINED_COLUMNS = ["key", "label", "score", "score_q", "rank"]


def default_k(n_pool: int, n_classes: int, *, share: float = 0.4, most: int = 16_000) -> int:
    """Images a class to mine when neither k nor a target is given.

    The rule: ``share`` of the pool, spread evenly over the classes and rounded to one digit, but
    no more than ``most``. Two fifths is where a pool of digits and distractors was still pure;
    the published mining of ImageNet-22k kept 28 %. Beyond some 16,000 a class the list reaches
    images the teacher hardly knows.

    >>> default_k(1_500, 10), default_k(2_000_000, 100), default_k(14_197_122, 1000)
    (60, 8000, 6000)
    """
    even = max(1, round(share * n_pool / max(1, n_classes)))
    digit = 10 ** (len(str(even)) - 1)
    return int(min(most, round(even / digit) * digit))


def select(
    scores: Path | Sequence[Path],
    dedup: pd.DataFrame | None = None,
    *,
    k: int | None = None,
    target_total: int | None = None,
    min_conf: float = 0.0,
    top_p: int = 1,
    diversity: int | None = None,
    exclude: Collection[str] = (),
    exclude_review: bool = True,
    threads: int = 1,
    memory_limit: str = "1GB",
) -> pd.DataFrame:
    """The mined list: of every class the ``k`` images the teacher is surest of.

    The order is total: class, quantised score descending, key; so neither the number of shards nor
    of processes nor of threads can change the list. ``target_total`` asks for the smallest k that
    brings that many images (as far as the pool goes); with neither, ``default_k``.

    Left out: images that ``dedup`` decides to ``remove`` (and, with ``exclude_review``, those that
    wait for a person), the keys in ``exclude``, images below ``min_conf`` (probability), all but
    the best-placed of images with the same bytes in a class, and with ``diversity`` those within
    that many bits of a better one of their class; the next in order take their places. With
    ``top_p`` above 1, classes that stay short are filled with images not chosen yet that have the
    class second, third, ... to ``top_p``-th; an image is listed once in any case.

    Returns columns key, label, score (probability), score_q (millionths), rank (from 1), sorted
    by label and rank. Raises ParameterError for impossible limits, DataError if nothing is left.
    """
    _check(k, target_total, min_conf, top_p, diversity)
    manifests = read_manifests(scores)
    num_classes = max(int(m["identity"]["num_classes"]) for m in manifests.values())
    barred = excluded_keys(dedup, exclude, exclude_review)
    least = int(np.ceil(min_conf * 1e6))
    with _candidates(list(manifests), barred, least, threads, memory_limit) as base:
        sizes = base.sql("select label, count(*) as n from candidates group by label").df()["n"]
        total = int(sizes.sum())
        if not total:
            raise DataError(
                "no image of the pool is left to mine: all are excluded or below min_conf "
                f"{min_conf} (mining.min_conf)"
            )
        if k is None:
            scored = sum(int(manifest["rows"]) for manifest in manifests.values())
            k = default_k(scored, num_classes)
            if target_total is not None:
                k = _smallest_k(sizes.to_numpy(), target_total)
        mined = _take(base, "candidates", k, diversity)
        for place in range(2, top_p + 1):
            mined = _fill(base, mined, place, k, least, num_classes, diversity)
    _log.info("mined %d of %d candidates, at most %d a class", len(mined), total, k)
    return mined[MINED_COLUMNS]


def write_mined_list(path: Path, mined: pd.DataFrame, label_mode: str = "teacher_top1") -> Path:
    """Write ``path label`` lines: the teacher's class, or 0 for all (what PaddleClas expects)."""
    if label_mode not in LABEL_MODES:
        raise unknown_name("label_mode", label_mode, LABEL_MODES, "mining.label_mode")
    labels = mined["label"] if label_mode == "teacher_top1" else 0
    data.write_list(path, pd.DataFrame({"path": mined["key"], "label": labels}))
    return Path(path)


def excluded_keys(
    dedup: pd.DataFrame | None, exclude: Collection[str], exclude_review: bool
) -> pd.Series[str]:
    """Keys that may not be mined: removed, waiting for a person, or excluded by name."""
    keys = pd.Series(sorted(exclude), dtype="str")
    if dedup is not None:
        barring = ["remove", "review"] if exclude_review else ["remove"]
        keys = pd.concat([keys, dedup.loc[dedup["decision"].isin(barring), "key"]])
    return keys.drop_duplicates().reset_index(drop=True)


def ranks_of(
    scores: Path | Sequence[Path],
    barred: pd.Series[str],
    keys: pd.Series[str],
    *,
    threads: int = 1,
    memory_limit: str = "1GB",
) -> pd.DataFrame:
    """Where the given images stand among all candidates: columns key, label, rank."""
    files = list(read_manifests(scores))
    with _candidates(files, barred, 0, threads, memory_limit) as base:
        base.register("asked", pd.DataFrame({"key": keys}))
        found: pd.DataFrame = base.sql(
            f"select key, label, rank from ({_RANKED.format(source='candidates')}) "  # noqa: S608
            "semi join asked using (key) order by label, rank"
        ).df()
        return found


_RANKED = """
select *, row_number() over (partition by label order by score_q desc, key) as rank
from {source}"""


@contextmanager
def _candidates(
    files: list[Path], barred: pd.Series[str], least: int, threads: int, memory_limit: str
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with the view ``candidates`` (and ``pool``, whatever the class's place)."""
    import duckdb

    with (
        tempfile.TemporaryDirectory(prefix="hgnetv2-mining-") as spill,
        duckdb.connect(
            config={"threads": threads, "memory_limit": memory_limit, "temp_directory": spill}
        ) as base,
    ):
        base.execute("set enable_progress_bar = false")
        names = ", ".join("'" + str(path).replace("'", "''") + "'" for path in files)
        base.register("barred_keys", pd.DataFrame({"key": barred}))
        base.execute("create temp table barred as select key from barred_keys")
        base.execute(
            f"create temp view pool as select * from read_parquet([{names}]) "  # noqa: S608
            "anti join barred using (key)"
        )
        base.execute(
            "create temp view top as select key, top_ids[1] as label, score_q, "  # noqa: S608
            "exp(top_logits[1] - lse)::float as score, phash64, bytes_sha256 "
            f"from pool where score_q >= {least}"
        )
        # Same bytes, same class: only the best-placed counts. Same bytes have the same picture's
        # hash, so that comparing the bytes' hashes is left for a few rows of millions.
        base.execute(
            "create temp table twice as select phash64 from top group by phash64 "
            "having count(*) > 1"
        )
        base.execute(
            "create temp table repeats as select key from (select key, row_number() over "
            "(partition by label, bytes_sha256 order by score_q desc, key) as n from top "
            "semi join twice using (phash64)) where n > 1"
        )
        base.execute(
            "create temp view candidates as select * from top anti join repeats using (key)"
        )
        yield base


def _take(
    base: duckdb.DuckDBPyConnection,
    source: str,
    k: int,
    diversity: int | None,
    taken: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The first ``k`` of every class of a view, as a frame of MINED_COLUMNS and phash64."""
    columns = ", ".join([*MINED_COLUMNS, "phash64"])
    ranked = _RANKED.format(source=source)
    ordered = f"select {columns} from ({ranked}) where rank <= {{deepest}} order by label, rank"  # noqa: S608
    if diversity is None:
        return _typed(base.sql(ordered.format(deepest=int(k))).df())
    reader = base.sql(ordered.format(deepest=2**40)).to_arrow_reader(65_536)
    chosen: dict[int, _Diverse] = {}
    if taken is not None:
        for label, rows in taken.groupby("label"):
            chosen[int(str(label))] = _Diverse(k, diversity, rows["phash64"].to_numpy(np.uint64))
    parts = []
    for batch in reader:
        rows = batch.to_pandas()
        keep = np.zeros(len(rows), dtype=bool)
        hashes = rows["phash64"].to_numpy(np.uint64)
        for label, places in rows.groupby("label", sort=False).indices.items():
            one = chosen.setdefault(int(str(label)), _Diverse(k, diversity))
            keep[places] = one.accept(hashes[places])
        parts.append(rows[keep])
    return _typed(pd.concat(parts, ignore_index=True))


class _Diverse:
    """Accepts hashes in order, up to ``k``, each more than ``apart`` bits from all before it."""

    def __init__(self, k: int, apart: int, first: Any = ()) -> None:
        self._held = np.zeros(k, dtype=np.uint64)
        self._count, self._apart = len(first), apart
        self._held[: len(first)] = first

    def accept(self, hashes: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, Any]:
        keep = np.zeros(len(hashes), dtype=bool)
        for place, value in enumerate(hashes):
            if self._count == len(self._held):
                break
            near = hamming(self._held[: self._count], value)
            if not len(near) or near.min() > self._apart:
                self._held[self._count] = value
                self._count += 1
                keep[place] = True
        return keep


def _fill(
    base: duckdb.DuckDBPyConnection,
    mined: pd.DataFrame,
    place: int,
    k: int,
    least: int,
    num_classes: int,
    diversity: int | None,
) -> pd.DataFrame:
    """Fill classes with fewer than ``k`` images from those that have the class in ``place``."""
    have = mined["label"].value_counts().reindex(range(num_classes), fill_value=0)
    room = pd.DataFrame({"label": have.index, "room": k - have.to_numpy()})
    room = room[room["room"] > 0]
    if room.empty:
        return mined
    base.register("room_now", room)
    base.register("chosen_now", mined[["key"]])
    base.execute(
        "create or replace temp view filling as "  # noqa: S608 - numbers of ours
        "select key, label, score_q, score, phash64 from ("
        f"select key, top_ids[{place}] as label, exp(top_logits[{place}] - lse)::float as score, "
        f"round(exp(top_logits[{place}] - lse) * 1e6)::uinteger as score_q, phash64 "
        "from pool anti join repeats using (key) anti join chosen_now using (key)) "
        f"semi join room_now using (label) where score_q >= {least}"
    )
    more = _take(base, "filling", k, diversity, mined)
    more["rank"] = more.groupby("label").cumcount() + 1
    limits = room.set_index("label")["room"].reindex(more["label"]).to_numpy()
    more = more[more["rank"].to_numpy() <= limits]
    more = more.assign(rank=more["rank"] + have.reindex(more["label"]).to_numpy())
    both = pd.concat([mined, more], ignore_index=True)
    return _typed(both.sort_values(["label", "rank"], ignore_index=True))


def _typed(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows in order of label and rank, with ranks that count what was kept, and plain types."""
    rows["rank"] = rows.groupby("label").cumcount() + 1
    return rows.astype(
        {"key": "str", "label": "int64", "score": "float32", "score_q": "int64", "rank": "int64"}
    )


def _smallest_k(sizes: np.ndarray[Any, Any], target: int) -> int:
    """The smallest k with ``sum(min(size, k)) >= target``; the largest class if none reaches."""
    low, high = 1, int(sizes.max())
    while low < high:
        middle = (low + high) // 2
        if int(np.minimum(sizes, middle).sum()) >= target:
            high = middle
        else:
            low = middle + 1
    return low


def _check(
    k: int | None, target_total: int | None, min_conf: float, top_p: int, diversity: int | None
) -> None:
    if k is not None and target_total is not None:
        raise ParameterError("give k or target_total, not both (mining.k, mining.target_total)")
    for name, value in (("k", k), ("target_total", target_total)):
        if value is not None and value < 1:
            raise ParameterError(f"{name} must be at least 1, not {value} (mining.{name})")
    if not 0.0 <= min_conf <= 1.0:
        raise ParameterError(f"min_conf must be from 0 to 1, not {min_conf} (mining.min_conf)")
    if not 1 <= top_p <= 10:
        raise ParameterError(
            f"top_p must be from 1 to 10, not {top_p}: ten classes an image are stored "
            "(mining.top_p)"
        )
    if diversity is not None and not 0 <= diversity <= 32:
        raise ParameterError(
            f"diversity must be from 0 to 32 bits, not {diversity} (mining.diversity)"
        )
