"""Scores of earlier passes that still hold: an image is known by its bytes, wherever it is now.

What a teacher says of an image follows from the bytes, the teacher and how it is asked. So a pool
that grew, whose folders were renamed or whose shards have another size is scored where it is new.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hgnetv2_pipeline.durable import read_json, sha256_file
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.mining.score_shards import column_names, content_bits

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_log = logging.getLogger(__name__)
_ROW_BITS = 32
_TABLES_HELD = 2
_NEW_EACH_TIME = ("inputs_sha256", "features")


class EarlierScores:
    """Finished shards of other folders, found by the SHA-256 of an image's bytes.

    Sixteen bytes are held per image. A shard that is damaged, or not what its manifest says, gives
    nothing.

    Args:
        folders: of shards, the preferred ones first; those that were made in another way are left.
        identity: of a shard as it is made now. One counts that differs in nothing but its images;
            one with features also where they are not asked for.
    """

    def __init__(self, folders: Iterable[Path], identity: Mapping[str, Any]) -> None:
        self._files: list[tuple[Path, str]] = []
        self._held: dict[int, pa.Table | None] = {}
        self._columns = column_names(features=identity["features"])
        bits, places = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for path, sha256 in _made_alike(folders, identity):
            found = _contents(path)
            if found is not None and len(found):
                bits.append(found)
                places.append((len(self._files) << _ROW_BITS) + np.arange(len(found)))
                self._files.append((path, sha256))
        together = np.concatenate(bits)
        order = np.argsort(together, kind="stable")
        self._bits, self._places = together[order], np.concatenate(places)[order]

    def count(self, sha256s: pd.Series[str]) -> int:
        """How many of these contents seem to be known; their scores are not read."""
        return int((self._find(sha256s) >= 0).sum())

    def take(self, rows: pd.DataFrame) -> tuple[NDArray[np.intp], pa.Table]:
        """The known ones of ``rows`` (key and bytes_sha256), by place, and their scores, under the
        keys that ``rows`` give them.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        places = self._find(rows["bytes_sha256"])
        files, lines = places >> _ROW_BITS, places & ((1 << _ROW_BITS) - 1)
        known, parts = [np.zeros(0, np.intp)], []
        for number in np.unique(files[places >= 0]).tolist():
            table = self._table(number)
            if table is None:
                continue
            at = np.flatnonzero(files == number)
            part = table.take(lines[at])
            wanted = pa.array(rows["bytes_sha256"].iloc[at].tolist(), pa.string())
            # Found by 64 bits of it: the whole decides.
            same = pc.equal(part["bytes_sha256"], wanted).to_numpy()
            keys = pa.array(rows["key"].iloc[at].tolist(), pa.string())
            part = part.set_column(part.schema.get_field_index("key"), "key", keys)
            parts.append(part.filter(pa.array(same)))
            known.append(at[same])
        together = np.concatenate(known)
        if not parts:
            return together, pa.table({name: [] for name in self._columns})
        order = np.argsort(together)
        return together[order], pa.concat_tables(parts).take(order)

    def _find(self, sha256s: pd.Series[str]) -> NDArray[np.int64]:
        """Number of the file and row in it of each content, -1 where it is unknown."""
        import pyarrow as pa

        found = np.full(len(sha256s), -1, np.int64)
        hashed = np.flatnonzero(sha256s.str.len().to_numpy() == 64)
        if not len(self._bits) or not len(hashed):
            return found
        bits = content_bits(pa.array(sha256s.iloc[hashed].tolist(), pa.large_string()))
        at = np.minimum(np.searchsorted(self._bits, bits), len(self._bits) - 1)
        here = self._bits[at] == bits
        found[hashed[here]] = self._places[at[here]]
        return found

    def _table(self, number: int) -> pa.Table | None:
        """The columns of a file; None, said once, if it is not what its manifest says."""
        import pyarrow.parquet as pq

        if number not in self._held:
            path, sha256 = self._files[number]
            if not path.is_file() or sha256_file(path) != sha256:
                _log.warning("%s is missing or damaged; nothing is taken over from it", path)
                self._held[number] = None
                return None
            whole = [at for at, table in self._held.items() if table is not None]
            for old in whole[: len(whole) - _TABLES_HELD + 1]:
                del self._held[old]
            self._held[number] = pq.ParquetFile(path).read(self._columns)
        return self._held[number]


def _made_alike(folders: Iterable[Path], identity: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """The shards below ``folders`` that were made as ``identity`` says, and the hash of each."""
    wanted = {name: value for name, value in identity.items() if name not in _NEW_EACH_TIME}
    for folder in folders:
        for beside in sorted(folder.glob("shard=*.json")):
            try:
                manifest = read_json(beside)
                other, sha256 = dict(manifest["identity"]), str(manifest["parquet_sha256"])
                enough = bool(other.get("features")) >= identity["features"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                _log.warning("%s: %s; nothing is taken over from it", beside, error)
                continue
            how = {name: value for name, value in other.items() if name not in _NEW_EACH_TIME}
            if how == wanted and enough:
                yield beside.with_suffix(".parquet"), sha256


def _contents(path: Path) -> NDArray[np.uint64] | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        column = pq.ParquetFile(path).read(["bytes_sha256"])["bytes_sha256"]
        return content_bits(column.combine_chunks().cast(pa.large_string()))
    except (OSError, pa.ArrowException, DataError) as error:
        _log.warning("%s: %s; nothing is taken over from it", path, error)
        return None
