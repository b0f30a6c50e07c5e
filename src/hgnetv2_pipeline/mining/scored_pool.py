"""The score shards of one or several sources as columns: numbers held, texts read when needed.

Fourteen million scored images are two gigabytes of mostly text. To choose among them takes a class
and a score each; the keys are read for those that were chosen.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.mining.score_shards import content_bits, read_manifests

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK = 8192


class ScoredPool:
    """The scored images in ascending order of key; a place in that order names an image.

    Args:
        scores: a folder of score shards, one that holds a folder for each source, or several.

    Attributes:
        rows: how many images.
        num_classes: how many classes the teacher knows.
        kept: how many classes per image are stored.
    """

    def __init__(self, scores: Path | Sequence[Path]) -> None:
        import pyarrow.parquet as pq

        manifests = read_manifests(scores)
        self.num_classes = max(int(m["identity"]["num_classes"]) for m in manifests.values())
        firsts = {path: m["first_key"] for path, m in manifests.items() if m["rows"]}
        self._files = sorted(firsts, key=firsts.__getitem__)
        self.rows = sum(int(manifests[path]["rows"]) for path in self._files)
        self.kept = 0
        if self._files:
            first = pq.ParquetFile(self._files[0]).read_row_group(0, ["top_ids"])["top_ids"]
            self.kept = len(first[0])

    def numbers(self, name: str) -> NDArray[Any]:
        """A column of one number per image: lse, score_q or phash64."""
        kind = np.dtype({"lse": "f4", "score_q": "u4", "phash64": "u8"}[name])
        return self._filled(kind, [name], lambda table: table[name].to_numpy())

    def best(self, place: int) -> tuple[NDArray[np.int32], NDArray[np.uint32]]:
        """Each image's ``place``-th class (from 1), and its probability in millionths."""
        labels = self._filled(
            np.dtype("i4"), ["top_ids"], lambda table: _nth(table["top_ids"], place)
        )
        if place == 1:
            return labels, self.numbers("score_q")

        def score(table: pa.Table) -> NDArray[Any]:
            logits = _nth(table["top_logits"], place).astype(np.float64)
            millionths: NDArray[np.float64] = np.exp(logits - table["lse"].to_numpy()) * 1e6
            return np.rint(millionths)

        return labels, self._filled(np.dtype("u4"), ["top_logits", "lse"], score)

    def holding(self, keys: pd.Series[str]) -> NDArray[np.bool_]:
        """Which images have one of the ``keys``; DataError unless the keys of the pool ascend."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = pc.unique(pa.array(keys, pa.large_string()))
        wanted = wanted.take(pc.sort_indices(wanted))
        places = range(len(wanted))
        found, last = [], ""
        for path, table in self._tables(["key"]):
            here = table["key"].combine_chunks().cast(pa.large_string())
            first, end = here[0].as_py(), here[-1].as_py()
            rising = pc.all(pc.less(here[:-1], here[1:]), min_count=0).as_py()
            if first <= last or not rising:
                raise DataError(
                    f"the keys of {path} do not follow those of the shard before ({last!r}, "
                    f"{first!r}): give every source of the pool a folder of its own"
                )
            last = end
            # Only the keys of this stretch: a set of all of them would be made for every shard.
            low = bisect_left(places, first, key=lambda place: wanted[place].as_py())
            high = bisect_right(places, end, key=lambda place: wanted[place].as_py())
            found.append(pc.is_in(here, value_set=wanted[low:high]).to_numpy(zero_copy_only=False))
        return np.concatenate(found) if found else np.zeros(0, dtype=bool)

    def keys(self, wanted: NDArray[np.bool_]) -> pa.LargeStringArray:
        """The keys of the images in the mask, in their order."""
        import pyarrow as pa

        # One buffer that grows: pieces put together at the end would take twice the memory.
        ends, text = np.zeros(int(np.count_nonzero(wanted)) + 1, dtype=np.int64), bytearray()
        done = 0
        for some in self._some("key", wanted):
            stops = np.frombuffer(some.buffers()[1], np.int64)[: len(some) + 1]
            ends[done + 1 : done + 1 + len(some)] = len(text) + stops[1:]
            done += len(some)
            if len(some):
                text += memoryview(some.buffers()[2])[: int(stops[-1])]
        return pa.LargeStringArray.from_buffers(done, pa.py_buffer(ends), pa.py_buffer(text))

    def contents(self, wanted: NDArray[np.bool_]) -> NDArray[np.uint64]:
        """The first 64 bits of the SHA-256 of the bytes of the images in the mask."""
        parts = [np.zeros(0, np.uint64)]
        parts += [content_bits(some) for some in self._some("bytes_sha256", wanted)]
        return np.concatenate(parts)

    def chunks(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        """These columns, a few thousand images at a time.

        Raises:
            ParameterError: the scores lack one of them.
        """
        import pyarrow.parquet as pq

        for path in self._files:
            with pq.ParquetFile(path) as file:
                for name in names:
                    if name not in file.schema_arrow.names:
                        raise ParameterError(
                            f"the scores have no column {name!r}, which a channel needs; score "
                            "with mining.features: true, or leave 'features' out of "
                            "mining.deduplicate.channels"
                        )
                yield from file.iter_batches(_CHUNK, columns=names)

    def _some(self, name: str, wanted: NDArray[np.bool_]) -> Iterator[pa.LargeStringArray]:
        """A text column of the images in the mask, shard by shard; buffers start at 0."""
        import pyarrow as pa

        at = 0
        for _, table in self._tables([name]):
            mask = wanted[at : at + len(table)]
            at += len(table)
            yield table[name].combine_chunks().filter(pa.array(mask)).cast(pa.large_string())

    def _filled(
        self, kind: np.dtype[Any], names: list[str], of: Callable[[pa.Table], NDArray[Any]]
    ) -> NDArray[Any]:
        column, at = np.empty(self.rows, dtype=kind), 0
        for _, table in self._tables(names):
            column[at : at + len(table)] = of(table)
            at += len(table)
        return column

    def _tables(self, names: list[str]) -> Iterator[tuple[Path, pa.Table]]:
        import pyarrow.parquet as pq

        for path in self._files:
            yield path, pq.ParquetFile(path).read(names, use_threads=False)


def _nth(lists: pa.ChunkedArray, place: int) -> NDArray[Any]:
    """The ``place``-th number (from 1) of every list; all lists have one length."""
    flat: NDArray[Any] = lists.combine_chunks().flatten().to_numpy()
    return flat.reshape(len(lists), -1)[:, place - 1]
